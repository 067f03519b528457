package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/hung"
)

// linesOf are the problems that err is made of, one line each.
func linesOf(err error) []string {
	const limit = 50
	var all []string
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		return []string{err.Error()}
	}
	for i, p := range problems {
		if i == limit {
			all = append(all, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		all = append(all, p.Error())
	}
	return all
}

// reloadAnswer says what is in force, and what of before is gone. Caller holds mu.
func (n *node) reloadAnswer(before *config.Config) admin.Reload {
	r := admin.Reload{
		Main: n.mainFile(), Organisations: []admin.File{},
		NeedsRestart: append([]string{}, n.started.NeedsRestart(n.cfg)...),
		Warnings:     append([]string{}, n.cfg.Warnings...),
	}
	for _, o := range n.hung.List() {
		r.Warnings = append(r.Warnings, (&hung.Error{What: o.What, Since: o.Since}).Error())
	}
	names := maps.Clone(n.cfg.Files)
	maps.Copy(names, before.Files)
	for name := range n.cfg.Broken {
		names[name] = config.File{}
	}
	delete(names, "")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		r.Organisations = append(r.Organisations, n.dropInFile(name, before))
	}
	return r
}

// mainFile is nil where there is none. When the last one read was bad, the hash
// is that one's: whoever wrote it looks for it.
func (n *node) mainFile() *admin.File {
	f, ok := n.cfg.Files[""]
	if !ok {
		return nil
	}
	main := &admin.File{Path: f.Path, SHA256: f.SHA256, State: admin.Applied}
	if n.failure != nil {
		main.State, main.SHA256, main.Errors = admin.Kept, n.failure.sha256, linesOf(n.failure.error)
	}
	return main
}

func (n *node) dropInFile(name string, before *config.Config) admin.File {
	f := n.cfg.Files[name]
	err, broken := n.cfg.Broken[name]
	_, there := n.cfg.Organisations[name]
	file := admin.File{Organisation: name, Path: f.Path, SHA256: f.SHA256, State: admin.Applied}
	switch {
	case broken:
		file.State, file.Errors = admin.Failed, linesOf(err)
		if there {
			file.State = admin.Kept
		}
	case f.Path == "": // gone, or in the main file now
		file.State, file.Path = admin.Removed, before.Files[name].Path
	}
	return file
}
