package token

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/classify"
	"berth/upstream/dialect"
)

// A registry that says back everything it was sent, in every way it can fail:
// nothing of that comes out in errors, logs, metrics or by printing.
func TestNothingLeaks(t *testing.T) {
	const user, password = "c4n4ry-user", "c4n4ry p&ss/w0rd+="
	forms := []string{
		user, password, url.QueryEscape(password), url.PathEscape(password), hex.EncodeToString([]byte(password)),
		base64.StdEncoding.EncodeToString([]byte(password)), base64.RawStdEncoding.EncodeToString([]byte(password)),
		pair(user + ":" + password), strings.TrimRight(pair(user+":"+password), "="),
	}
	var out bytes.Buffer
	logs, reg := &ocitest.Log{}, prometheus.NewPedanticRegistry()
	m, err := credential.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	collect := func(v any, err error) {
		fmt.Fprintf(&out, "%v %+v %#v %v\n", v, v, err, err)
		if e, ok := err.(*oci.Error); ok { //nolint:errorlint // exactly that type is promised
			fmt.Fprintf(&out, "%s %s %v %+v\n", e.Message, e.Detail, e.Err, e.Err)
			b, _ := json.Marshal(e)
			out.Write(b)
		}
	}
	for _, status := range []int{200, 302, 400, 401, 403, 404, 405, 429, 500, 503} {
		for _, form := range []string{`{"errors":[{"code":%q,"message":%[1]q,"detail":%[1]q}]}`, `{"details":%q}`, `{"error":%q,"token":""}`, "%s", "<html>%s", `"%s`} {
			f := newFakeRegistry(t, false)
			f.token = func(w http.ResponseWriter, r *http.Request, u, p string) {
				said := strings.Join(append([]string{r.Header.Get("Authorization"), u, p}, forms...), " ")
				w.Header().Set("Retry-After", said)
				w.Header().Set("Location", "https://evil.test/?"+url.QueryEscape(said))
				w.WriteHeader(status)
				fmt.Fprintf(w, form, said)
			}
			c := ocitest.NewClock()
			a := f.authority(Options{Logger: logs.Logger(), Metrics: m, Now: c.Now, Type: typeNamed(t, dialect.GHCR)})
			cred := testAccount("acme", "ci", user, password)
			for range 2 {
				h, err := f.header(a, cred, "acme/app")
				collect(h, err)
				c.Advance(time.Hour)
			}
			body := fmt.Sprintf(form, strings.Join(forms, " "))
			for _, basic := range []bool{true, false} {
				collect(cred, classify.Answer(classify.Response{Registry: "r", Type: dialect.Type{TwoLimits: true}, Credential: cred, Basic: basic, Repo: "acme/app", Status: status, Header: http.Header{"Retry-After": {body}}, Body: []byte(body)}))
			}
			collect(a.probe.last(), nil)
		}
	}
	series, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&out, series)
	for _, where := range []string{out.String(), logs.String()} {
		for _, form := range forms {
			if i := strings.Index(where, form); i >= 0 {
				t.Errorf("%q shows in ...%s", form, where[max(0, i-200):i+len(form)])
			}
		}
	}
	if out.Len() < 1000 || len(logs.String()) < 1000 {
		t.Error("hardly anything was looked at")
	}
}
