//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A push to berth says that it answers pulls only, whichever store Docker has.
func TestPush_SaysThatOnlyPullsAreAnswered(t *testing.T) {
	for name, v := range map[string]dockerVersion{"old": dockerOld, "new": dockerNew} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := startDocker(t, v, w)
			i := pushHello(t, w.acme, "team/hello")
			mustPull(t, d, w.ref(i), w.as("acme"), i.digest)
			// As it was pulled, and as one that the registry has never seen.
			must(t, d.call(t, http.MethodPost, "/images/"+w.ref(i)+"/tag?"+url.Values{"repo": {strings.TrimSuffix(w.ref(i), ":1") + "-new"}, "tag": {"1"}}.Encode(), nil, nil, nil))
			for _, ref := range []string{w.ref(i), strings.TrimSuffix(w.ref(i), ":1") + "-new:1"} {
				err := d.push(t, ref, w.as("acme"))
				if err == nil && ref == w.ref(i) && name == "new" {
					continue // the registry has all of it, so that nothing is sent
				}
				if err == nil || !strings.Contains(err.Error(), "only answers pulls: push to the registry itself") {
					t.Errorf("pushing %s: %v", ref, err)
				}
			}
		})
	}
}

// push is docker push.
func (d docker) push(t *testing.T, ref string, as login) error {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	auth, err := json.Marshal(map[string]string{"username": as.user, "password": as.password, "serveraddress": host})
	must(t, err)
	at := strings.LastIndex(ref, ":")
	resp, err := d.send(t.Context(), http.MethodPost, "/images/"+ref[:at]+"/push?"+url.Values{"tag": {ref[at+1:]}}.Encode(),
		http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(auth)}}, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for stream := json.NewDecoder(resp.Body); ; {
		var line struct{ Error string }
		if err := stream.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}
