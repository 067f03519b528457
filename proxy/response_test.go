package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"

	"berth/oci"
)

// kernel is a ResponseWriter with ReadFrom, as net/http's is: what reaches it
// as a limited file would be sent by sendfile.
type kernel struct {
	*httptest.ResponseRecorder
	t         *testing.T
	pieces    []int64
	writes    int
	deadlines int
	// fail is what ReadFrom does instead of sending everything.
	fail func(piece *io.LimitedReader) (int64, error)
}

func (k *kernel) Write(p []byte) (int, error) {
	k.writes++
	return k.ResponseRecorder.Write(p)
}

func (k *kernel) SetWriteDeadline(deadline time.Time) error {
	if left := time.Until(deadline); left < 29*time.Second || left > 30*time.Second {
		k.t.Errorf("a deadline in %v", left)
	}
	k.deadlines++
	return nil
}

func (k *kernel) ReadFrom(src io.Reader) (int64, error) {
	piece, ok := src.(*io.LimitedReader)
	if !ok {
		k.t.Errorf("ReadFrom got a %T", src)
		return 0, errors.New("not limited")
	}
	if _, ok := piece.R.(*os.File); !ok {
		k.t.Errorf("ReadFrom got a limited %T", piece.R)
	}
	k.pieces = append(k.pieces, piece.N)
	if k.fail != nil {
		return k.fail(piece)
	}
	return io.Copy(k.ResponseRecorder.Body, piece)
}

// serveKernel answers a GET of a file with data. class is why it was aborted,
// if it was.
func serveKernel(t *testing.T, k *kernel, data []byte, header string) (class string) {
	t.Helper()
	s := newSite(t, nil)
	path := withBlob(s, &thing{data: data, form: file})
	r := httptest.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, path, nil)
	r.Host = "localhost"
	if header != "" {
		r.Header.Set("Range", header)
	}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			class, _ = s.log.lines(t)[0]["class"].(string)
		}
	}()
	s.server.Config.Handler.ServeHTTP(k, r)
	return ""
}

func newKernel(t *testing.T) *kernel {
	return &kernel{ResponseRecorder: httptest.NewRecorder(), t: t}
}

func TestFilesGoByTheKernel(t *testing.T) {
	whole := pattern(2*maxPiece + 12345)
	for header, want := range map[string][]int64{
		"":                   {maxPiece, maxPiece, 12345},
		"bytes=100-":         {maxPiece, maxPiece, 12245},
		"bytes=8388607-":     {maxPiece, 12346},
		"bytes=5-9":          {5},
		"bytes=-7":           {7},
		"bytes=0-8388607":    {maxPiece},
		"bytes=1-16777217":   {maxPiece, maxPiece, 1},
		"bytes=0-1, 2-3,4-5": nil, // parts are copied
	} {
		t.Run(header, func(t *testing.T) {
			k := newKernel(t)
			if class := serveKernel(t, k, whole, header); class != "" {
				t.Fatal(class)
			}
			if want == nil {
				if len(k.pieces) != 0 {
					t.Errorf("pieces %v", k.pieces)
				}
				return
			}
			if len(k.pieces) != len(want) || k.writes != 0 {
				t.Fatalf("pieces %v, want %v; %d writes", k.pieces, want, k.writes)
			}
			for i := range want {
				if k.pieces[i] != want[i] {
					t.Errorf("pieces %v, want %v", k.pieces, want)
				}
			}
			if k.deadlines < len(want) {
				t.Errorf("%d deadlines for %d pieces", k.deadlines, len(want))
			}
			data := whole
			if w := windows(parseRange(header), int64(len(whole))); len(w) == 1 {
				data = data[w[0].start : w[0].start+w[0].length]
			}
			if !bytes.Equal(k.Body.Bytes(), data) {
				t.Error("other bytes")
			}
		})
	}
}

// A piece that takes longer than the deadline goes on, as long as it moves.
func TestPiecesGoOnWhileTheyMove(t *testing.T) {
	data := pattern(1_000_000)
	k := newKernel(t)
	k.fail = func(piece *io.LimitedReader) (int64, error) {
		n, err := io.CopyN(k.Body, piece, min(piece.N, leastProgress))
		if err == nil && piece.N > 0 {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
	class := serveKernel(t, k, data, "")
	if class != "" || !bytes.Equal(k.Body.Bytes(), data) {
		t.Errorf("aborted as %q after %d bytes", class, k.Body.Len())
	}
	if want := (len(data) + leastProgress - 1) / leastProgress; len(k.pieces) != want || k.deadlines < want {
		t.Errorf("%d attempts, %d deadlines", len(k.pieces), k.deadlines)
	}
}

func TestPiecesEnd(t *testing.T) {
	for name, c := range map[string]struct {
		read, sent int64
		err        error
		class      oci.Class
	}{
		"too little by the deadline": {leastProgress - 1, leastProgress - 1, os.ErrDeadlineExceeded, oci.ClientGone},
		"read but not sent":          {leastProgress + 100, leastProgress, os.ErrDeadlineExceeded, oci.ClientGone},
		"reset":                      {leastProgress, leastProgress, syscall.ECONNRESET, oci.ClientGone},
		"closed":                     {leastProgress, leastProgress, syscall.EPIPE, oci.ClientGone},
		"the disk":                   {leastProgress, leastProgress, syscall.EIO, oci.Disk},
		"the file is short":          {0, 0, nil, oci.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			k.fail = func(piece *io.LimitedReader) (int64, error) {
				if _, err := io.CopyN(io.Discard, piece, c.read); err != nil {
					t.Error(err)
				}
				return c.sent, c.err
			}
			class := serveKernel(t, k, pattern(1_000_000), "")
			if class != c.class.String() || len(k.pieces) != 1 {
				t.Errorf("aborted as %q after %d attempts", class, len(k.pieces))
			}
		})
	}
}

// Over a real connection, a file arrives whole and in order.
func TestFilesOverASocket(t *testing.T) {
	s := newSite(t, nil)
	data := pattern(maxPiece + 54321)
	path := withBlob(s, &thing{data: data, form: file})
	s.get(path).wants(t, http.StatusOK).sends(t, data)
	s.get(path, "Range", "bytes=7-").wants(t, http.StatusPartialContent).sends(t, data[7:])
	if got := s.value("berth_served_bytes_total"); got != float64(2*len(data)-7) {
		t.Errorf("%v bytes counted", got)
	}
}

// With TLS there is nothing for the kernel, and the copy has its own deadlines.
func TestFilesOverTLS(t *testing.T) {
	s := newSite(t, nil)
	server := httptest.NewUnstartedServer(nil)
	server.Config = Server(s.server.Config.Handler, nil)
	server.StartTLS()
	defer server.Close()
	data := pattern(300_000)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+withBlob(s, &thing{data: data, form: file}), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	answer{resp, body, err}.wants(t, http.StatusOK).sends(t, data)
	if resp.ProtoMajor != 1 {
		t.Errorf("HTTP/%d", resp.ProtoMajor)
	}
	server.Client().CloseIdleConnections()
}

func TestWriteErrorsAreTheClients(t *testing.T) {
	w := &response{under: failing{httptest.NewRecorder()}, control: *http.NewResponseController(httptest.NewRecorder())}
	_, err := w.Write([]byte("x"))
	if oci.ClassOf(err) != oci.ClientGone || !errors.Is(err, errLeft) || oci.ClassOf(w.finish()) != oci.ClientGone {
		t.Errorf("%v; at the end %v", err, w.finish())
	}
}

type failing struct{ http.ResponseWriter }

func (failing) Write([]byte) (int, error) { return 0, errors.New("no") }

// The last resort: net/http would send less than it promised without a word.
func TestShortBodies(t *testing.T) {
	for promised, ok := range map[string]bool{"5": true, "6": false, "": true} {
		w := &response{under: httptest.NewRecorder(), control: *http.NewResponseController(httptest.NewRecorder())}
		w.under.Header().Set("Content-Length", promised)
		if _, err := w.Write([]byte("12345")); err != nil {
			t.Fatal(err)
		}
		if err := w.finish(); (err == nil) != ok {
			t.Errorf("5 bytes of %q: %v", promised, err)
		}
	}
}

// The header of an answer whose bytes come slowly leaves with the first of them: nobody else
// tells the client that it is to wait.
func TestResponse_HeaderOfASlowBeginning(t *testing.T) {
	for name, form := range map[string]form{"a stream": stream, "what can be sought in": seekable, "a file": file} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan struct{})
			site := newSite(t, nil)
			d := site.fake.put("library/nginx", oci.Blob, &thing{
				data: bytes.Repeat([]byte("x"), 1<<20), form: form, failAt: 10,
				failWhen: func(ctx context.Context) error {
					select {
					case <-seen:
					case <-ctx.Done():
					}
					return errors.New("it ends")
				},
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // where it fails
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, site.server.URL+"/v2/nginx/blobs/"+d.String(), http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := site.client.Do(req)
			close(seen)
			if err != nil {
				t.Fatalf("no header: %v", err)
			}
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
			_ = resp.Body.Close()
		})
	}
}
