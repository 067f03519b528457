package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"berth/internal/fileid"
)

// send signs one request and sends it. The caller closes the body.
func (b *Bucket) send(ctx context.Context, method, key string, body []byte) (*http.Response, error) {
	return b.sendQuery(ctx, method, key, "", body)
}

func (b *Bucket) sendQuery(ctx context.Context, method, key, query string, body []byte) (*http.Response, error) {
	u := b.base
	u.Path, u.RawQuery = u.Path+key, query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body, req.GetBody = http.NoBody, nil
	}
	// What is written is sealed, and its reader finds any change: hashing it once more
	// would double the cost of sealing. Without TLS some services insist on it.
	payload := unsignedPayload
	if u.Scheme == "http" {
		sum := sha256.Sum256(body)
		payload = hex.EncodeToString(sum[:])
	}
	req.Header.Set("X-Amz-Content-Sha256", payload)
	creds, err := b.credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("no access key: %w", err)
	}
	if err := b.signer.SignHTTP(ctx, creds, req, payload, "s3", b.region, time.Now()); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// answerError is an answer that is neither the object nor its absence. Of the
// document only the code is kept: others of its fields show the access key and what
// was signed.
type answerError struct {
	status int
	code   string
}

func (e *answerError) Error() string {
	if e.code == "" {
		return fmt.Sprintf("it answered %d", e.status)
	}
	return fmt.Sprintf("it answered %d %s", e.status, e.code)
}

var codeForm = regexp.MustCompile(`^[A-Za-z0-9.]{1,64}$`)

// answered is the error for an answer that is no success.
func answered(resp *http.Response) error {
	var doc struct {
		Code string `xml:"Code"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err == nil {
		err = xml.Unmarshal(text, &doc)
	}
	if err != nil || !codeForm.MatchString(doc.Code) {
		doc.Code = ""
	}
	// With any other code they are about the request: its bucket, key, signature or clock.
	if resp.StatusCode == http.StatusNotFound && (doc.Code == "NoSuchKey" || doc.Code == "") ||
		resp.StatusCode == http.StatusForbidden && (doc.Code == "AccessDenied" || doc.Code == "") {
		return ErrNotFound
	}
	return &answerError{status: resp.StatusCode, code: doc.Code}
}

func newTransport(secure *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: time.Second}).DialContext,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    2 * time.Second,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
	}
}

// role asks the machine for its own access key: Amazon's token service where the environment
// names a role and a token (EKS service accounts), the container's endpoint where it names
// one (ECS, EKS pod identity), the instance's metadata otherwise.
// Nothing else in the program reads the environment or dials metadata addresses.
func role() aws.CredentialsProvider {
	return aws.NewCredentialsCache(machine(&http.Client{
		Timeout: timeout,
		// No proxy of the environment, as the SDK's own client would have: it cannot answer
		// for this machine, and would be shown the machine's secret.
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: time.Second}).DialContext,
			MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives:      true, // it is asked every few hours
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}))
}

func machine(client *http.Client) aws.CredentialsProvider {
	if p := newWebIdentity(client); p != nil {
		return p
	}
	if relative := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); relative != "" {
		return endpointcreds.New("http://169.254.170.2"+relative, func(o *endpointcreds.Options) { o.HTTPClient = client })
	}
	if full := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"); full != "" {
		return endpointcreds.New(full, func(o *endpointcreds.Options) {
			o.HTTPClient = client
			if file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
				o.AuthorizationTokenProvider = endpointcreds.TokenProviderFunc(func() (string, error) {
					token, _, err := fileid.Read(file, maxToken)
					return string(token), err
				})
			} else {
				o.AuthorizationToken = os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
			}
		})
	}
	return ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = imds.New(imds.Options{HTTPClient: client}) })
}
