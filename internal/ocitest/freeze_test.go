package ocitest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// What is frozen says nothing, and takes no end; what is new works.
func TestForwarder_FreezesWhatIsOpen(t *testing.T) {
	up := New(t, Options{})
	f := NewForwarder(t, up.Origin().Host)
	client := func() (*http.Client, *http.Transport) {
		tr := &http.Transport{}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}, tr
	}
	ask := func(c *http.Client, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.Addr()+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	first, _ := client()
	if err := ask(first, time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := f.Freeze(); n != 1 {
		t.Fatalf("%d connections were frozen", n)
	}
	before := len(up.Requests(Match{}))
	if err := ask(first, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("over a frozen connection: %v", err)
	}
	if n := len(up.Requests(Match{})); n != before {
		t.Errorf("%d requests got through", n-before)
	}
	second, _ := client()
	if err := ask(second, time.Minute); err != nil {
		t.Errorf("over a new connection: %v", err)
	}
	if n := f.Freeze(); n != 1 {
		t.Errorf("%d new connections", n)
	}
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
