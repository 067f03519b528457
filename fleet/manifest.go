package fleet

import (
	"context"
	"sync"
	"time"

	"berth/fleet/coordinator"
	"berth/fleet/seal"
	"berth/oci"
)

// Manifest gives a manifest that another node has fetched, if its digest is right. It
// waits for one that fetches it now: registries count each GET of a manifest, wherever
// it is sent from. Without data the caller is to fetch it, and to call keep with what
// came, or nil.
func (t *Tier) Manifest(ctx context.Context, scopes []seal.Scope, origin string, d oci.Digest) (data []byte, keep func([]byte)) {
	m := &manifest{t: t, digest: d, writing: seal.NewWriting()}
	for _, s := range scopes {
		m.names = append(m.names, named{s, coordinator.Object{Name: s.Name(origin, oci.Manifest, d), Everywhere: true}})
	}
	ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
	defer cancel()
	for first := true; ; first = false {
		asked := time.Now()
		data, holder, err := m.look(ctx, first)
		answer := time.Since(asked)
		if data != nil {
			return data, nil
		}
		if err != nil {
			return nil, func([]byte) {}
		}
		if holder == (coordinator.Holder{}) {
			_, ok, err := t.o.Coordinator.Take(ctx, m.names[0].Object, m.writing)
			if err != nil {
				return nil, func([]byte) {}
			}
			if ok {
				return nil, m.fetching()
			}
		}
		if ctx.Err() != nil {
			return nil, func(data []byte) { m.t.wg.Go(func() { m.publish(data) }) }
		}
		nextPoll(ctx, answer)
	}
}

// manifest is one in these scopes.
type manifest struct {
	t       *Tier
	names   []named
	digest  oci.Digest
	writing seal.Writing
}

// look asks what there is, and who fetches it.
func (m *manifest) look(ctx context.Context, first bool) ([]byte, coordinator.Holder, error) {
	var holder coordinator.Holder
	for i, n := range m.names {
		if i > 0 && !first { // nobody writes there any more
			break
		}
		found, err := m.t.o.Coordinator.Look(ctx, n.Object)
		if err != nil {
			return nil, holder, err
		}
		if i == 0 {
			holder = found.Holder
		}
		for _, w := range found.Writers {
			if data := m.open(n, w); data != nil {
				return data, holder, nil
			}
		}
	}
	return nil, holder, nil
}

// open gives what w says, if that is the manifest. What is not counts against its writer.
func (m *manifest) open(n named, w coordinator.Writer) []byte {
	if w.State != coordinator.Whole || !m.t.trusts(w.Node, w.Writing) {
		return nil
	}
	data, err := n.scope.Open(nil, w.Writing, n.Name, seal.Record, w.Size, w.Body)
	if err != nil || m.digest.Algorithm().FromBytes(data) != m.digest {
		m.t.blame(w.Node, w.Writing)
		return nil
	}
	m.t.o.Metrics.bytes(In, len(data))
	return data
}

// fetching keeps the lease until the manifest has come, and gives it back.
func (m *manifest) fetching() (keep func([]byte)) {
	ctx, cancel := context.WithTimeout(m.t.ctx, maxWait)
	m.t.wg.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if ours, err := m.t.o.Coordinator.Renew(ctx, m.names[0].Object, m.writing); err != nil || !ours {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	var once sync.Once
	return func(data []byte) {
		once.Do(func() {
			cancel()
			m.t.wg.Go(func() {
				m.publish(data)
				ctx, cancel := context.WithTimeout(m.t.ctx, m.t.o.Patience)
				defer cancel()
				_ = m.t.o.Coordinator.Release(ctx, m.names[0].Object, m.writing) // it runs out by itself
			})
		})
	}
}

// publish gives the manifest to the others, if there is one and it is small.
func (m *manifest) publish(data []byte) {
	n := m.names[0]
	if data == nil || len(data)+seal.Overhead > coordinator.MaxBody {
		return
	}
	ctx, cancel := context.WithTimeout(m.t.ctx, m.t.o.Patience)
	defer cancel()
	size := int64(len(data))
	err := m.t.o.Coordinator.Publish(ctx, n.Object, coordinator.Record{
		State: coordinator.Whole, Writing: m.writing, Size: size,
		Body: n.scope.Seal(nil, m.writing, n.Name, seal.Record, size, data),
	})
	if err != nil {
		m.t.o.Log.Debug("a manifest was not given to the fleet", "err", err)
		return
	}
	m.t.o.Metrics.bytes(Out, len(data))
}
