package bucket

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"berth/fleet/gate"
	"berth/internal/pause"
	"berth/internal/secret"
)

const (
	// timeout bounds one try to write: 8 MiB at less than 1 MB/s are no help to anybody.
	timeout = 10 * time.Second
	// least is what reading has to bring within Patience, again and again. A time limit for
	// the whole would be wrong: of a thousand nodes at one server of 10 Gbit/s each waits
	// longer for a part than it would for a bucket that is ill, and all of them together
	// would go to the registry.
	least = 256 << 10
	tries = 2
	// firstPause is before the second try, and grows to longestPause; both are jittered.
	firstPause, longestPause = 100 * time.Millisecond, 2 * time.Second
	// busyFor is how many times as long as other troubles a bucket is waited for that says
	// it is asked for too much: it is well, and serves others meanwhile. Ten thousand nodes
	// that read one image are served one after another; if those whose turn comes late went
	// to the registry, it would be thousands.
	busyFor = 15
	// maxError is how much of an error document is read.
	maxError = 4 << 10

	unsignedPayload = "UNSIGNED-PAYLOAD"
	probeKey        = "v1/probe"
)

var (
	// ErrNotFound says that there is no object of that name. Who may not list a bucket
	// is told 403 instead of 404, so that both mean this.
	ErrNotFound = errors.New("not in the bucket")
	// ErrTooLong says that an object is longer than its reader allows.
	ErrTooLong = errors.New("longer than it may be")
	// ErrSlow says that next to nothing came.
	ErrSlow = errors.New("it is too slow")
)

// AccessKey signs requests.
type AccessKey struct {
	ID     string
	Secret secret.Text
}

// ParseAccessKey reads ID:SECRET on one line, the form in which s3fs keeps keys. No
// error repeats it.
func ParseAccessKey(file []byte) (AccessKey, error) {
	id, key, ok := strings.Cut(strings.TrimSpace(string(file)), ":")
	if !ok || id == "" || key == "" || strings.ContainsAny(id+key, ": \t\r\n\x00") {
		return AccessKey{}, errors.New("it is no access key: write ACCESS-KEY-ID:SECRET on one line")
	}
	return AccessKey{ID: id, Secret: secret.New(key)}, nil
}

// Options say which bucket, and as whom.
type Options struct {
	// Endpoint is the service's. Where its host begins with the bucket's name and a
	// dot, requests have the bucket in the host (host style), otherwise in the path.
	Endpoint *url.URL
	Name     string
	// Region is what requests are signed for. Empty: the one that an endpoint of AWS
	// names, otherwise us-east-1, which most other services take.
	Region string
	// AccessKey is asked at each request, so that a new key is in use at once. nil:
	// the machine's own role is asked instead.
	AccessKey func(context.Context) (AccessKey, error)
	TLS       *tls.Config // nil: the system's authorities
	// Transport sends requests; it is not closed. nil: one that connects anywhere.
	Transport http.RoundTripper
	// Patience is how long reading may bring next to nothing. If 0, 4 s.
	Patience time.Duration
	Metrics  *gate.Metrics
}

// Bucket is safe for concurrent use.
type Bucket struct {
	base        url.URL
	region      string
	credentials aws.CredentialsProvider
	client      *http.Client
	signer      *v4.Signer
	patience    time.Duration
	reads       *gate.Gate
	writes      *gate.Gate
	close       func()
}

// New makes one. It asks the bucket nothing.
func New(o Options) (*Bucket, error) {
	if o.Endpoint == nil || o.Endpoint.Host == "" || o.Endpoint.Scheme != "https" && o.Endpoint.Scheme != "http" {
		return nil, errors.New("the bucket's endpoint is not a URL with https:// or http:// and a host")
	}
	if o.Name == "" {
		return nil, errors.New("the bucket has no name")
	}
	b := &Bucket{base: *o.Endpoint, region: region(o), patience: cmp.Or(o.Patience, 4*time.Second), close: func() {}}
	b.base.Path = strings.TrimSuffix(b.base.Path, "/") + "/"
	if !strings.HasPrefix(b.base.Hostname(), o.Name+".") {
		b.base.Path += o.Name + "/"
	}
	transport := o.Transport
	if transport == nil {
		t := newTransport(o.TLS)
		transport, b.close = t, t.CloseIdleConnections
	}
	b.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a signature is for one host, and only the named one is dialled
	}}
	b.signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }) // as S3 signs
	b.credentials = role()
	if o.AccessKey != nil {
		b.credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			k, err := o.AccessKey(ctx)
			return aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret.Reveal()}, err
		})
	}
	b.reads = gate.New("bucket", o.Metrics, b.probeRead)
	b.writes = gate.New("bucket", o.Metrics, b.probeWrite)
	return b, nil
}

// region is the configured one, or what an endpoint like s3.eu-central-1.amazonaws.com
// says.
func region(o Options) string {
	if o.Region != "" {
		return o.Region
	}
	host := o.Endpoint.Hostname()
	for _, suffix := range []string{".amazonaws.com", ".amazonaws.com.cn"} {
		if rest, ok := strings.CutSuffix(host, suffix); ok {
			if _, r, ok := strings.Cut("."+rest, ".s3."); ok && r != "" {
				return strings.TrimPrefix(r, "dualstack.")
			}
		}
	}
	return "us-east-1"
}

// Close ends what runs beside callers. The bucket is not to be used any more.
func (b *Bucket) Close() {
	b.reads.Close()
	b.writes.Close()
	b.close()
}

// Away is why the bucket is not asked, or nil.
func (b *Bucket) Away() error { return errors.Join(b.reads.Away(), b.writes.Away()) }

// Get reads a whole object into memory that it fits in, and gives what was read.
func (b *Bucket) Get(ctx context.Context, key string, into []byte) ([]byte, error) {
	var body []byte
	err := b.through(ctx, b.reads, b.patience, func(ctx context.Context, moved func()) (err error) {
		body, err = b.get(ctx, key, into, moved)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading from the bucket: %w", err)
	}
	return body, nil
}

// Put writes an object.
func (b *Bucket) Put(ctx context.Context, key string, body []byte) error {
	err := b.through(ctx, b.writes, timeout, func(ctx context.Context, _ func()) error { return b.put(ctx, key, body) })
	if err != nil {
		return fmt.Errorf("writing to the bucket: %w", err)
	}
	return nil
}

// Writable is why nothing is written to the bucket now, or nil. It may start a probe.
func (b *Bucket) Writable() error { return b.writes.Enter() }

// through does one thing, a second time if that may help, and tells the gate. Each try may
// take as long as within, counted anew from each call of moved. A bucket that has too many
// requests is asked again until nothing of this node's was done for some time.
func (b *Bucket) through(ctx context.Context, g *gate.Gate, within time.Duration, do func(ctx context.Context, moved func()) error) error {
	if err := g.Enter(); err != nil {
		return err
	}
	began := time.Now()
	var err error
	for try, wait := 1, firstPause; ; try, wait = try+1, min(2*wait, longestPause) {
		one, cancel := context.WithCancelCause(ctx)
		limit := time.AfterFunc(within, func() { cancel(ErrSlow) })
		err = do(one, func() { limit.Reset(within) })
		limit.Stop()
		if err != nil && errors.Is(context.Cause(one), ErrSlow) {
			err = ErrSlow
		}
		cancel(nil)
		limited := within
		if slowDown(err) {
			limited *= busyFor
		}
		if !again(ctx, err) || try >= tries && !busy(err) || g.Since(began) > limited || pause.For(ctx, wait/2+rand.N(wait)) != nil {
			break
		}
	}
	switch {
	case err == nil:
		g.Worked()
	case errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLong):
	case errors.Is(ctx.Err(), context.Canceled): // whoever asked has left, which says nothing
	default:
		g.Failed(err)
	}
	return err
}

// again says whether a second try may help. One that took all its time would cost
// as much again.
func again(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrSlow) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLong) {
		return false
	}
	if answer, ok := errors.AsType[*answerError](err); ok {
		return answer.status >= 500 || answer.status == http.StatusTooManyRequests || answer.status == http.StatusRequestTimeout
	}
	return true
}

// busy says whether there were too many requests, as far as one knows: what stands before a
// service that is away answers 503, too.
func busy(err error) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && (answer.status == http.StatusServiceUnavailable || answer.status == http.StatusTooManyRequests)
}

// slowDown says whether the service itself has said so: S3, Ceph, Google and Backblaze with
// the code SlowDown, MinIO with SlowDownRead and SlowDownWrite, R2 with status 429.
func slowDown(err error) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && (strings.HasPrefix(answer.code, "SlowDown") || answer.status == http.StatusTooManyRequests)
}

// get reads an object, and calls moved whenever a little more has come.
func (b *Bucket) get(ctx context.Context, key string, into []byte, moved func()) ([]byte, error) {
	resp, err := b.send(ctx, http.MethodGet, key, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, answered(resp)
	}
	if resp.ContentLength > int64(len(into)) {
		return nil, ErrTooLong
	}
	for n, told := 0, 0; n < len(into); {
		more, err := resp.Body.Read(into[n:min(told+least, len(into))])
		if n += more; n-told >= least {
			told = n
			moved()
		}
		if err == io.EOF {
			return into[:n], nil
		} else if err != nil {
			return nil, err
		}
	}
	switch n, err := io.ReadFull(resp.Body, make([]byte, 1)); {
	case n > 0:
		return nil, ErrTooLong
	case err != io.EOF:
		return nil, err
	}
	return into, nil
}

func (b *Bucket) put(ctx context.Context, key string, body []byte) error {
	resp, err := b.send(ctx, http.MethodPut, key, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		if err := answered(resp); !errors.Is(err, ErrNotFound) {
			return err
		}
		return &answerError{status: resp.StatusCode, code: "AccessDenied"}
	}
	return nil
}

// Try finds out whether anything can be read, unless something was read within Patience.
// It takes half of Patience at most, and closes the gate where that is not enough. A bucket
// with too many requests is none that is away.
func (b *Bucket) Try(ctx context.Context) error {
	if err := b.reads.Enter(); err != nil {
		return err
	}
	if b.reads.Since(time.Time{}) < b.patience {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, b.patience/2)
	defer cancel()
	err := b.probeRead(limited)
	switch {
	case err == nil:
		b.reads.Worked()
		return nil
	case busy(err):
		return nil
	case ctx.Err() != nil: // whoever asked has left
		return err
	case limited.Err() != nil:
		err = ErrSlow
	}
	b.reads.Failed(err)
	return fmt.Errorf("trying to read from the bucket: %w", err)
}

// probeRead reads as much as reading has to bring within Patience, since a bucket that is
// too slow may answer in time what is small. Whoever comes first has to write it.
func (b *Bucket) probeRead(ctx context.Context) error {
	_, err := b.get(ctx, probeKey, make([]byte, least), func() {})
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if b.probeWrite(ctx) == nil {
		_, err = b.get(ctx, probeKey, make([]byte, least), func() {})
		return err
	}
	return ctx.Err() // a bucket that takes nothing may be read from
}

func (b *Bucket) probeWrite(ctx context.Context) error {
	return b.put(ctx, probeKey, make([]byte, least))
}
