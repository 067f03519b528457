package download

import (
	"context"
	"errors"
	"io"
	"testing"

	"berth/oci"
)

// provenAsker is an Asker whose right was shown, and who is asked for nothing here.
type provenAsker struct{}

var errNotAsked = errors.New("nobody should ask")

func (provenAsker) Open(context.Context, oci.Range) (*oci.Content, error) { return nil, errNotAsked }
func (provenAsker) Stat(context.Context) (*oci.Content, error)            { return nil, errNotAsked }
func (provenAsker) Admit(context.Context) (oci.Outcome, error)            { return oci.Outcome{}, nil }
func (provenAsker) Proven() bool                                          { return true }
func (provenAsker) Warning() string                                       { return "" }
func (provenAsker) Restart()                                              {}
func (provenAsker) Delivered()                                            {}
func (provenAsker) Bypass(context.Context, Rest, error) (io.ReadCloser, error) {
	return nil, errNotAsked
}

// A requester that is rejected while its reader waits to be let in gets no byte of
// what is there, also before it may know.
func TestRequester_RejectedWhileItsReaderComes(t *testing.T) {
	s := newStore(t)
	table := NewTable(Options{Store: s, Report: nobody{}})
	defer table.Close()
	m := newModel(t, table, 1)
	for _, to := range []State{Fetching, Open} {
		m.move(t, to)
	}
	d := m.d
	rq := newRequester(Request{Key: d.key, Asker: provenAsker{}})
	d.requesters = []*requester{rq}
	rd := &Reader{download: d, requester: rq}
	d.readers[rd] = struct{}{}
	why := &oci.Error{Class: oci.Denied, Message: "withdrawn"}
	d.reject(rq, why)
	if rq.told {
		t.Error("it was told before the download has given back what it holds")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := d.awaitContent(gone, rd); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("before it may know: %v, %v", c, err)
	}
	rd.leave()
	m.move(t, Failed)
	if c, err := d.awaitContent(t.Context(), rd); c != nil || !errors.Is(err, why) {
		t.Errorf("after the end: %v, %v", c, err)
	}
}
