package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Images are what the cache keeps.
type Images struct {
	Images []Image `json:"images"`
}

// ImagesRequest says which images are wanted. As a GET, its field may be a parameter of the
// URL.
type ImagesRequest struct {
	// Organisation: only what it has pulled as itself. Empty: all.
	Organisation string `json:"organisation,omitempty"`
}

func (r *ImagesRequest) query(parameters url.Values) error {
	for name, values := range parameters {
		if name != "organisation" && name != "org" {
			return fmt.Errorf("unknown parameter %.40q: there is organisation", name)
		}
		r.Organisation = values[0]
	}
	return nil
}

// Image is an image that is kept.
type Image struct {
	Registry string `json:"registry"`
	// Unconfigured: no registry of the configuration is reached where the image is
	// from, so nobody is served it. Registry is that place then.
	Unconfigured bool   `json:"unconfigured,omitempty"`
	Repository   string `json:"repository"`
	// Tags are what it was called by when it was last asked.
	Tags     []string `json:"tags"`
	Digest   string   `json:"digest"`
	Platform string   `json:"platform,omitempty"`
	// Bytes that are kept of it, of TotalBytes. Layers that images share count in
	// each of them.
	Bytes      int64     `json:"bytes"`
	TotalBytes int64     `json:"total_bytes"`
	LastUse    time.Time `json:"last_use"`
}

// PrewarmRequest says what to fetch, as whom.
type PrewarmRequest struct {
	Image        string `json:"image"`
	Organisation string `json:"organisation,omitempty"`
	// Account is the one to use; empty: the one that fits best.
	Account string `json:"account,omitempty"`
	// Platform is which image of an index; empty: the node's.
	Platform string `json:"platform,omitempty"`
}

// Progress is how far a prewarming is. The last one says Done, or what went wrong.
type Progress struct {
	// Digest is the image's.
	Digest string `json:"digest,omitempty"`
	// Bytes are there, of Total.
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total"`
	// Fetched were not there before.
	Fetched int64  `json:"fetched"`
	Done    bool   `json:"done"`
	Error   string `json:"error,omitempty"`
}

// prewarmTimeout bounds the fetching of one image.
const prewarmTimeout = time.Hour

// addPrewarm makes the route that answers with one Progress in each line.
func addPrewarm(mux *http.ServeMux, o Options) {
	if o.Prewarm == nil {
		return
	}
	mux.HandleFunc("POST /v1/prewarm", func(w http.ResponseWriter, r *http.Request) {
		var request PrewarmRequest
		if err := read(w, r, &request); err != nil {
			fail(w, http.StatusBadRequest, "the request cannot be read: "+err.Error())
			return
		}
		control := http.NewResponseController(w)
		// The deadline of reading would end the request's context.
		_ = control.SetReadDeadline(time.Time{}) // a connection of net/http has deadlines
		ctx, cancel := context.WithTimeout(r.Context(), prewarmTimeout)
		defer cancel()
		w.Header().Set("Content-Type", "application/x-ndjson")
		lines := json.NewEncoder(w)
		tellOne := func(p Progress) {
			_ = control.SetWriteDeadline(time.Now().Add(answerTimeout)) // likewise
			if lines.Encode(p) != nil || control.Flush() != nil {
				cancel() // whoever asked is gone
			}
		}
		last, err := o.Prewarm(ctx, request, tellOne)
		tell(r, o.Logger, "POST /v1/prewarm", request, err)
		last.Done = err == nil
		if err != nil {
			last.Error = err.Error()
		}
		tellOne(last)
	})
}

// Images lists what the cache keeps, for organisation if it is not empty.
func (c *Client) Images(ctx context.Context, organisation string) (i Images, err error) {
	err = c.do(ctx, http.MethodGet, "images", ImagesRequest{organisation}, &i)
	return i, err
}

// Prewarm has an image fetched into the cache, and hears how far it is.
func (c *Client) Prewarm(ctx context.Context, request PrewarmRequest, hear func(Progress)) (last Progress, err error) {
	w, err := c.send(ctx, http.MethodPost, "prewarm", request, &http.Client{Transport: c.http.Transport}) // no limit but ctx's
	if err != nil {
		return last, err
	}
	defer w.Body.Close()
	lines := bufio.NewScanner(w.Body)
	if w.StatusCode != http.StatusOK {
		return last, c.refused(w, json.NewDecoder(w.Body))
	}
	for lines.Scan() {
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			return last, err
		}
		hear(last)
	}
	switch {
	case last.Error != "":
		return last, &Error{Status: http.StatusBadGateway, Message: last.Error}
	case lines.Err() != nil:
		return last, lines.Err()
	case !last.Done:
		return last, errors.New("the node ended before the image was here")
	}
	return last, nil
}
