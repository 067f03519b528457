package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"berth/internal/ocitest"
)

// whoami stands in for what a machine at Amazon asks who it is, at the addresses that it
// has there.
type whoami struct {
	id, secret string

	mu    sync.Mutex
	asked []string
}

const (
	instanceAddress, taskAddress, podAddress = "169.254.169.254", "169.254.170.2", "169.254.170.23"
	tokenServiceAddress                      = "169.254.170.99" // the environment says so

	instanceToken, podToken, sessionToken = "token-of-an-instance", "token-of-a-pod", "session-of-a-role"
)

func (m *whoami) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked = append(m.asked, r.Method+" "+r.Host+r.URL.Path)
	m.mu.Unlock()
	const role = "/latest/meta-data/iam/security-credentials/"
	switch {
	case r.Host == instanceAddress && r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		fmt.Fprint(w, instanceToken)
	case r.Host == instanceAddress && r.Header.Get("X-Aws-Ec2-Metadata-Token") != instanceToken: // as version 2 has it
		w.WriteHeader(http.StatusUnauthorized)
	case r.Host == instanceAddress && r.URL.Path == role:
		fmt.Fprint(w, "berth")
	case r.Host == instanceAddress && r.URL.Path == role+"berth",
		r.Host == taskAddress && r.URL.Path == "/v2/credentials/of-the-task",
		r.Host == podAddress && r.URL.Path == "/v1/credentials" && r.Header.Get("Authorization") == podToken:
		fmt.Fprintf(w, `{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
			m.id, m.secret, sessionToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case r.Host == tokenServiceAddress && r.FormValue("Action") == "AssumeRoleWithWebIdentity" && r.FormValue("WebIdentityToken") == podToken && strings.HasSuffix(r.FormValue("RoleArn"), ":role/berth"):
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			m.id, m.secret, sessionToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	default:
		w.WriteHeader(http.StatusForbidden)
	}
}

// session stands in for a bucket that knows the role's sessions, which versitygw does not:
// it checks the signature, and puts that of the key itself in its place.
func (c *crew) session(t *testing.T) func(w http.ResponseWriter, r *http.Request) bool {
	key := aws.Credentials{AccessKeyID: c.s3.AccessKey, SecretAccessKey: c.s3.Secret}
	return func(w http.ResponseWriter, r *http.Request) bool {
		role := key
		role.SessionToken = r.Header.Get("X-Amz-Security-Token")
		if want, err := signed(r, role); err != nil || role.SessionToken != sessionToken || r.Header.Get("Authorization") != want {
			t.Errorf("a request to the bucket, with the session %q, has the signature %q, not %q (%v)", role.SessionToken, r.Header.Get("Authorization"), want, err)
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		r.Header.Del("X-Amz-Security-Token")
		again, err := signed(r, key)
		if err != nil {
			t.Error(err)
		}
		r.Header.Set("Authorization", again)
		return false
	}
}

// signed is the signature that r has with that key.
func signed(r *http.Request, key aws.Credentials) (string, error) {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return "", err
	}
	req, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), http.NoBody)
	if err != nil {
		return "", err
	}
	req.ContentLength = max(r.ContentLength, 0)
	payload := r.Header.Get("X-Amz-Content-Sha256")
	req.Header.Set("X-Amz-Content-Sha256", payload)
	err = v4.NewSigner().SignHTTP(context.Background(), key, req, payload, "s3", "us-east-1", at)
	return req.Header.Get("Authorization"), err
}

// Without an access key in the configuration a node goes by the machine's role: the
// instance's, the task's or the pod's. Only that asks the machine who it is, whatever a
// registry says, and no proxy hears of it.
func TestFleet_RoleOfTheMachine(t *testing.T) {
	if !alone(t) {
		return
	}
	l := newLAN(t)
	for _, address := range []string{instanceAddress, taskAddress, podAddress, tokenServiceAddress} {
		l.sh("ip addr add %s/32 dev lo", address)
	}
	m := &whoami{}
	for _, address := range []string{instanceAddress, taskAddress, podAddress, tokenServiceAddress} {
		listener, err := net.Listen("tcp", address+":80")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: m}
		go s.Serve(listener) // it ends with the test
		t.Cleanup(func() { s.Close() })
	}
	var proxied atomic.Int32
	proxy := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) })}
	listener, err := net.Listen("tcp", lanHost+":3128")
	if err != nil {
		t.Fatal(err)
	}
	go proxy.Serve(listener) // likewise
	t.Cleanup(func() { proxy.Close() })
	for what, env := range map[string][]string{
		"instance":        nil,
		"task":            {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/of-the-task"},
		"service account": {"AWS_ROLE_ARN=arn:aws:iam::123456789012:role/berth", "AWS_WEB_IDENTITY_TOKEN_FILE=TOKEN", "AWS_ENDPOINT_URL_STS=http://" + tokenServiceAddress},
		"pod":             {"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + podAddress + "/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=TOKEN"},
	} {
		t.Run(what, func(t *testing.T) {
			hub := ocitest.New(t, ocitest.Options{})
			image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{100 << 10, 5 << 20}, Seed: 1})
			c := newCrew(t, 2, hub, nil)
			c.before(c.session(t))
			m.mu.Lock()
			m.id, m.secret, m.asked = c.s3.AccessKey, c.s3.Secret, nil
			m.mu.Unlock()
			for i, h := range c.homes {
				h.more = ""
				h.fleet(c, nodeName(i))
				before, after, _ := strings.Cut(h.more, ", access_key_file: ")
				_, after, _ = strings.Cut(after, "}")
				h.more = before + "}" + after
				token := filepath.Join(h.dir, "pod-token")
				h.write(token, podToken)
				at := []string{"HTTP_PROXY=http://" + lanHost + ":3128", "http_proxy=http://" + lanHost + ":3128"}
				for _, e := range env {
					at = append(at, strings.Replace(e, "=TOKEN", "="+token, 1))
				}
				n := h.start(exec.Command(program(t, berthProgram)), at...)
				h.client(n.doors[openDoor]).mustPull("app", image, "")
				if i == 0 {
					c.complete(3)
					hub.Forget()
					continue
				}
				if asked := hub.Count(ocitest.Match{Kind: ocitest.Blob}); asked != 0 {
					t.Errorf("the registry was asked for %d blobs", asked)
				}
				// A registry that names such an address has berth ask nobody.
				hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Status(http.StatusTemporaryRedirect, "Location", "http://"+instanceAddress+"/stolen"))
				other := hub.AddImage("library/other", "1", ocitest.Image{Layers: []int64{200 << 10}, Seed: 2})
				if a := h.client(n.doors[openDoor]).get("/v2/other/blobs/" + other.Platforms[0].Layers[0].String()); a.status < 400 {
					t.Error(a)
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Logf("asked: %q", m.asked)
			for _, path := range m.asked {
				if strings.Contains(path, "stolen") {
					t.Errorf("berth has followed a registry to %s", path)
				}
			}
			if len(m.asked) == 0 {
				t.Error("the machine was not asked")
			}
		})
	}
	if n := proxied.Load(); n > 0 {
		t.Errorf("a proxy was asked %d times", n)
	}
}
