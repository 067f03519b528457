package fleet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"berth/fleet/coordinator"
	"berth/fleet/seal"
)

const (
	// badFor is for how long a node that wrote wrong parts twice is not read, and for how
	// long every part is hashed after wrong bytes were found too late.
	badFor = time.Hour
	// judgeFor bounds finding out who was to blame.
	judgeFor = 10 * time.Minute
)

var (
	errWrong = errors.New("not what can be opened, though it was announced")
	// errChanged: every node may put any object into the bucket.
	errChanged    = errors.New("not what was announced: somebody else has written over it")
	errDistrusted = errors.New("its writer is not trusted")
)

// lose notes that there is nothing to be had of a writing, whose lease then counts as one
// that brings no parts.
func (o *Object) lose(w seal.Writing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost[w] = true
}

// bad notes that a part cannot be used, and why.
func (o *Object) bad(at place, err error) {
	o.lose(at.writing)
	if errors.Is(err, errChanged) {
		o.t.changed(at.node, at.writing)
	} else {
		o.t.blame(at.node, at.writing)
	}
}

// Wrong says that the bytes, wherever they came from, do not match the digest. All that is
// fetched again comes from the registry, and nobody is to read what was written of them.
func (o *Object) Wrong() {
	o.mu.Lock()
	used, file := o.used, o.file
	o.used, o.file = map[coordinator.Holder]map[int]place{}, nil
	o.withdraw()
	o.mu.Unlock()
	if len(used) == 0 || o.t.ctx.Err() != nil {
		return
	}
	o.t.suspect(used)
	if file == nil {
		return
	}
	if f, err := file.OpenReader(); err == nil { // its name is deleted next
		o.t.wg.Go(func() { o.judge(used, f) })
	}
}

// judge names whoever has announced wrong bytes, and nobody where they were changed since:
// it reads what was used once more.
func (o *Object) judge(used map[coordinator.Holder]map[int]place, file *os.File) {
	defer file.Close() // only read from
	ctx, cancel := context.WithTimeout(o.t.ctx, judgeFor)
	defer cancel()
	select {
	case o.t.judges <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-o.t.judges }()
	for by, parts := range used {
		var err error
		for part, at := range parts {
			if err = o.compare(ctx, part, at, file); err != nil {
				break
			}
		}
		switch {
		case err == nil, errors.Is(err, errWrong):
			o.t.blame(by.Node, by.Writing)
		case errors.Is(err, errChanged):
			o.t.changed(by.Node, by.Writing)
		default:
			o.t.o.Log.Debug("nobody knows who has put wrong bytes into the fleet", "node", by.Node, "err", err)
		}
	}
}

// compare says whether a part is still what was announced, and what is in the file.
func (o *Object) compare(ctx context.Context, part int, at place, file io.ReaderAt) error {
	s, err := o.hold(ctx, part, func(into []byte) ([]byte, error) { return o.get(ctx, part, at, into, true) })
	if err != nil {
		return err
	}
	defer s.Release()
	from, _ := seal.Range(part, o.size)
	for piece := make([]byte, 64<<10); len(s.Data) > 0; {
		n, err := file.ReadAt(piece[:min(len(piece), len(s.Data))], from)
		if n == 0 {
			return err
		}
		if !bytes.Equal(piece[:n], s.Data[:n]) {
			return errChanged
		}
		from, s.Data = from+int64(n), s.Data[n:]
	}
	return nil
}

// suspect has nobody read these writings any more, and every part hashed for a while:
// whoever has the scope's key can write parts over another node's that open, and the hash
// shows it before a client has seen any of them.
func (t *Tier) suspect(used map[coordinator.Holder]map[int]place) {
	for by := range used {
		t.spoilt.For(by.Node, by.Writing, badFor, nil)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.careful = time.Now().Add(badFor)
}

// hashes says whether parts are hashed before they are opened, as a matter of course.
func (t *Tier) hashes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.careful)
}

// blame counts something wrong in w that node has announced.
func (t *Tier) blame(node string, w seal.Writing) {
	t.spoilt.For(node, w, badFor, nil)
	t.o.Metrics.wrong(node)
	if _, _, before := t.wrong.Held(node); !before {
		t.wrong.For(node, node, badFor, nil)
		t.o.Log.Warn("another node has put wrong bytes into the fleet; they are fetched from the registry", "node", node)
		return
	}
	t.bad.For(node, node, badFor, nil)
	t.o.Log.Error("another node has put wrong bytes into the fleet again: it is not read from for an hour; see whether it was broken into", "node", node)
}

// changed counts that somebody, and nobody knows who, has written over what node wrote.
func (t *Tier) changed(node string, w seal.Writing) {
	t.spoilt.For(node, w, badFor, nil)
	t.o.Metrics.wrong(others)
	t.o.Log.Warn("what a node has written into the fleet's bucket was changed there by another one, or by the bucket: it is fetched from the registry; see who has access to the bucket", "node", node)
}

// trusts says whether to read what node has announced in w.
func (t *Tier) trusts(node string, w seal.Writing) bool {
	_, _, bad := t.bad.Held(node)
	_, _, spoilt := t.spoilt.Held(w)
	return !bad && !spoilt
}
