package golden

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Log lines as the source has them, so that those are there too that no test provokes.
func TestGolden_LogKeysInTheSource(t *testing.T) {
	found := logLines{keys: map[string]map[string]bool{}, apart: map[string]bool{}}
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && slices.Contains([]string{"bench", "e2e", "ocitest", "nodetest", "golden", "testdata", ".git"}, e.Name()):
			return fs.SkipDir // not in the program
		case e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err == nil {
			ast.Inspect(file, found.look)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, line := range slices.Sorted(maps.Keys(found.keys)) {
		fmt.Fprintf(&b, "%s\n%s", line, indented(found.keys[line]))
	}
	fmt.Fprintf(&b, "\nkeys that are given a value apart from the line that shows them\n%s", indented(found.apart))
	hold(t, "log_source", "Log lines in the source: level, message, and below them the keys that stand with the message.", b.String())
}

// indented is a line of names.
func indented(names map[string]bool) string {
	if len(names) == 0 {
		return ""
	}
	return "    " + strings.Join(slices.Sorted(maps.Keys(names)), " ") + "\n"
}

// logLines are the calls that log.
type logLines struct {
	keys  map[string]map[string]bool // by level and message
	apart map[string]bool            // of attributes that are built outside such a call
}

func (l *logLines) look(n ast.Node) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return true
	}
	level, at, args := logCall(call)
	if level == "" {
		if key := attribute(call); key != "" {
			l.apart[key] = true
		}
		return true
	}
	keys := map[string]bool{}
	keysIn(args, keys)
	line := level + "  " + at
	if l.keys[line] == nil {
		l.keys[line] = keys
	}
	maps.Copy(l.keys[line], keys)
	return false
}

// logCall says whether call logs: at which level, the message, and what follows it.
func logCall(call *ast.CallExpr) (level, message string, rest []ast.Expr) {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", "", nil
	}
	name, at := f.Sel.Name, 0
	if short, ok := strings.CutSuffix(name, "Context"); ok {
		name, at = short, 1
	}
	switch name {
	case "Debug", "Info", "Warn", "Error":
	case "Log", "LogAttrs":
		at = 2
	case "With": // every line of that logger has these
		keys := map[string]bool{}
		keysIn(call.Args, keys)
		if len(keys) == 0 {
			return "", "", nil
		}
		return "with", "", call.Args
	default:
		return "", "", nil
	}
	if len(call.Args) <= at {
		return "", "", nil
	}
	message = literal(call.Args[at])
	if message == "" {
		return "", "", nil // http.Error and its like
	}
	if at == 2 {
		level, ok := call.Args[1].(*ast.SelectorExpr)
		if !ok {
			return "", "", nil
		}
		name = strings.TrimPrefix(level.Sel.Name, "Level")
	}
	return strings.ToLower(name), message, call.Args[at+1:]
}

// keysIn adds the keys among the arguments of a call that logs.
func keysIn(args []ast.Expr, keys map[string]bool) {
	for i := 0; i < len(args); i++ {
		if key := literal(args[i]); key != "" {
			keys[key] = true
			i++ // its value
		} else if call, ok := args[i].(*ast.CallExpr); ok {
			if key := attribute(call); key != "" {
				keys[key] = true
			} else if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "append" {
				keysIn(call.Args[1:], keys)
			}
		}
	}
}

// attribute is the key of slog.String("key", ...) and its like.
func attribute(call *ast.CallExpr) (key string) {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) < 2 {
		return ""
	}
	if of, ok := f.X.(*ast.Ident); !ok || of.Name != "slog" || f.Sel.Name == "SetDefault" {
		return ""
	}
	return literal(call.Args[0])
}

func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}
