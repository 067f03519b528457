// Package source reads a module's own Go files for the programs that measure them:
// which functions there are, where each begins and ends, and which lines are code.
package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Package is a package without its tests.
type Package struct {
	// Path is the import path below the module's: "cache/store". The module's own
	// package is ".".
	Path  string
	Files []File
}

// File is one of its files.
type File struct {
	// ImportPath is the package's import path, slash, the file's name: what a
	// coverage profile calls it.
	ImportPath string
	// Path is the file's path below the module's folder.
	Path string
	// Lines are all lines, Code those that hold more than comments and blanks.
	Lines, Code int
	// Functions are in order of their beginning. A closure comes after the function
	// that it is written in.
	Functions []Function
}

// Function is a declared function, a method or a closure.
type Function struct {
	// Name is as in a stack trace, without the package: "Open", "(*Store).Open",
	// "Open.func1" for the first closure in it.
	Name     string
	Closure  bool
	From, To Position
}

// Position is a place in a file. Both count from 1.
type Position struct{ Line, Column int }

// Before says whether p comes before q.
func (p Position) Before(q Position) bool {
	return p.Line < q.Line || p.Line == q.Line && p.Column < q.Column
}

// Lines is how many lines the function has, from "func" to its brace.
func (f Function) Lines() int { return f.To.Line - f.From.Line + 1 }

// Load reads all packages of the module in dir, as go build would take their files.
func Load(ctx context.Context, dir string) ([]Package, error) {
	c := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Module", "./...")
	c.Dir = dir
	var failed bytes.Buffer
	c.Stderr = &failed
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, failed.Bytes())
	}
	var all []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var one listed
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p, err := one.read()
		if err != nil {
			return nil, err
		}
		if len(p.Files) > 0 { // there may be tests only
			all = append(all, p)
		}
	}
}

// listed is a package as go list describes it.
type listed struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	Module            struct{ Path, Dir string }
}

func (l listed) read() (Package, error) {
	p := Package{Path: "."}
	if below, ok := strings.CutPrefix(l.ImportPath, l.Module.Path+"/"); ok {
		p.Path = below
	}
	for _, name := range append(l.GoFiles, l.CgoFiles...) {
		text, err := os.ReadFile(filepath.Join(l.Dir, name))
		if err != nil {
			return p, err
		}
		f, err := parse(name, text)
		if err != nil {
			return p, err
		}
		f.ImportPath = l.ImportPath + "/" + name
		f.Path = filepath.ToSlash(filepath.Join(p.Path, name))
		p.Files = append(p.Files, f)
	}
	return p, nil
}

// parse reads one file.
func parse(name string, text []byte) (File, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return File{}, err
	}
	f := File{Lines: bytes.Count(text, []byte("\n")), Code: codeLines(text)}
	for _, d := range tree.Decls {
		in := &scope{set: set, into: &f.Functions}
		if declared, ok := d.(*ast.FuncDecl); ok {
			in.name = funcName(declared)
			in.add(declared, false)
			if declared.Body != nil {
				ast.Walk(in, declared.Body)
			}
			continue
		}
		in.name = "glob." // as the compiler calls what is outside of any function
		ast.Walk(in, d)
	}
	return f, nil
}

// scope is the function whose closures are being collected.
type scope struct {
	set      *token.FileSet
	into     *[]Function
	name     string
	closure  bool
	closures int
}

// Visit takes the closures of this function, and those in each of them with a scope
// of its own.
func (s *scope) Visit(n ast.Node) ast.Visitor {
	literal, ok := n.(*ast.FuncLit)
	if !ok {
		return s
	}
	s.closures++
	name := s.name + ".func" + strconv.Itoa(s.closures)
	if s.closure { // the compiler says "func" once
		name = s.name + "." + strconv.Itoa(s.closures)
	}
	inner := &scope{set: s.set, into: s.into, name: name, closure: true}
	inner.add(literal, true)
	ast.Walk(inner, literal.Body)
	return nil
}

func (s *scope) add(n ast.Node, closure bool) {
	from, to := s.set.Position(n.Pos()), s.set.Position(n.End())
	*s.into = append(*s.into, Function{
		Name: s.name, Closure: closure,
		From: Position{from.Line, from.Column}, To: Position{to.Line, to.Column},
	})
}

// funcName is the name with the receiver's type, which is written without its type
// parameters.
func funcName(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name
	}
	receiver, pointer := d.Recv.List[0].Type, false
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver, pointer = t.X, true
		case *ast.ParenExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			if pointer {
				return "(*" + t.Name + ")." + d.Name.Name
			}
			return t.Name + "." + d.Name.Name
		default:
			return d.Name.Name // not reached with Go that compiles
		}
	}
}

// codeLines counts the lines on which a token other than a comment begins, ends or,
// as a raw string may, passes.
func codeLines(text []byte) int {
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0) // without ScanComments there are none
	lines, last := 0, 0
	for {
		pos, kind, literal := s.Scan()
		if kind == token.EOF {
			return lines
		}
		if kind == token.SEMICOLON && literal == "\n" { // put in by the scanner
			continue
		}
		first := file.Line(pos)
		end := first + strings.Count(literal, "\n")
		lines += max(0, end-max(first-1, last))
		last = max(last, end)
	}
}
