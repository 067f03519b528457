package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"

	"berth/internal/diagnose"
)

// maxAnswer is far above what thousands of organisations need.
const maxAnswer = 64 << 20

// Errors that say why no order could be given.
var (
	ErrNotRunning   = errors.New("berth is not running")
	ErrNotPermitted = errors.New("not permitted")
)

// Client gives orders to the node behind a socket. Its errors are for people:
// they say what to do. Requests end with their ctx, or after a minute.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient is a client for the socket at path. It connects when it is used.
// Close it.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, MaxResponseHeaderBytes: maxHeader},
		Timeout:   answerTimeout,
	}}
}

// Close closes the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Reload has the configuration read again, and returns when it is in force.
func (c *Client) Reload(ctx context.Context) (r Reload, err error) {
	err = c.do(ctx, http.MethodPost, "reload", nil, &r)
	return r, err
}

// Remove deletes what is kept.
func (c *Client) Remove(ctx context.Context, request RemoveRequest) (r Removal, err error) {
	err = c.do(ctx, http.MethodPost, "remove", request, &r)
	return r, err
}

// Purge drops what was proven to an organisation, and its tokens.
func (c *Client) Purge(ctx context.Context, request PurgeRequest) (p Purge, err error) {
	err = c.do(ctx, http.MethodPost, "purge", request, &p)
	return p, err
}

// Status is the node as it is now.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.do(ctx, http.MethodGet, "status", nil, &s)
	return s, err
}

// Failures are the last failures of pulls.
func (c *Client) Failures(ctx context.Context, request FailuresRequest) (f Failures, err error) {
	err = c.do(ctx, http.MethodGet, "failures", request, &f)
	return f, err
}

// Canary asks whether a pull that a client was made to try came to the node.
func (c *Client) Canary(ctx context.Context, request CanaryRequest) (a Canary, err error) {
	err = c.do(ctx, http.MethodPost, "canary", request, &a)
	return a, err
}

// Ready asks whether pulls are answered; nil: they are.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, "ready", nil, &nothing{})
}

// Diagnose walks the way of a pull from the node.
func (c *Client) Diagnose(ctx context.Context, request DiagnoseRequest) (r *diagnose.Report, err error) {
	err = c.do(ctx, http.MethodPost, "diagnose", request, &r)
	return r, err
}

// do sends request, unless it is nil, and decodes the answer.
func (c *Client) do(ctx context.Context, method, route string, request, answer any) error {
	w, err := c.send(ctx, method, route, request, c.http)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	d := json.NewDecoder(io.LimitReader(w.Body, maxAnswer))
	if w.StatusCode != http.StatusOK {
		return c.refused(w, d)
	}
	if err := d.Decode(answer); err != nil {
		return fmt.Errorf("%s: reading the answer: %w", route, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, route string, request any, by *http.Client) (*http.Response, error) {
	body := io.Reader(http.NoBody)
	if request != nil {
		b, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", route, err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://admin/v1/"+route, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", route, err)
	}
	w, err := by.Do(r)
	if err != nil {
		return nil, c.unreached(err)
	}
	return w, nil
}

// unreached says why there is no connection, and what to do.
func (c *Client) unreached(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers on %s: start it, or name its configuration with --config or its socket with --socket", ErrNotRunning, c.socket)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return c.notPermitted()
	}
	return fmt.Errorf("asking the node on %s: %w", c.socket, err)
}

func (c *Client) notPermitted() error {
	return fmt.Errorf("%w: %s is for root and the user that berth runs as: use sudo", ErrNotPermitted, c.socket)
}

func (c *Client) refused(w *http.Response, d *json.Decoder) error {
	if w.StatusCode == http.StatusForbidden {
		return c.notPermitted()
	}
	var f failure
	if err := d.Decode(&f); err != nil || f.Error == "" {
		f.Error = "the node answered " + w.Status + ": is it of another version?"
	}
	return &Error{Status: w.StatusCode, Message: f.Error}
}
