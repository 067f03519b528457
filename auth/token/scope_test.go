package token

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// A token endpoint that refuses one scope says nothing about the credential, however it says
// it: the account of an organisation, and this node's own, go on everywhere else.
func TestScope_ThatIsRefused(t *testing.T) {
	for name, no := range map[string]func(http.ResponseWriter){
		"401":         func(w http.ResponseWriter) { refuse(w, 401, "UNAUTHORIZED", "no") },
		"a bare 401":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) },
		"403 expired": func(w http.ResponseWriter) { refuse(w, 403, "DENIED", "Your authorization token has expired.") },
	} {
		for organisation, class := range map[string]oci.Class{"acme": oci.Denied, "": oci.NoCredential} {
			for _, order := range [][]string{{"bad/app", "team/app", "bad/app", "bad/other", "team/other"}, {"team/app", "bad/app", "team/other"}} {
				t.Run(fmt.Sprint(name, ", ", class, ", ", order[0], " first"), func(t *testing.T) {
					f := newFakeRegistry(t, false)
					f.token = func(w http.ResponseWriter, r *http.Request, user, _ string) {
						if strings.HasPrefix(r.URL.Query().Get("scope"), "repository:bad/") {
							no(w)
							return
						}
						f.grant(w, user, 300)
					}
					a := f.authority(Options{})
					cred := testAccount(organisation, "ci", "bot", "pw")
					for _, repo := range order {
						h, err := f.header(a, cred, repo)
						switch {
						case strings.HasPrefix(repo, "bad/"):
							if e := ocitest.AsClass(t, err, class); !strings.Contains(e.Message, repo) || e.NotUnderstood {
								t.Errorf("%s: %+v", repo, e)
							}
						case err != nil || h == "":
							t.Errorf("%s: %q, %v", repo, h, err)
						}
					}
					if e := a.Refusal(cred); e != nil {
						t.Error(e)
					}
				})
			}
		}
	}
}

// What is asked without a scope may be answered by trouble, by a limit, or by nothing: the
// refusal of the one repository is heard in time, and nothing is held against the account.
// Where the endpoint gives nobody a token without a scope, it is.
func TestScope_RefusedAndNobodySaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		login int // its status, 0: none
		want  oci.Class
	}{
		"silence": {0, oci.Denied}, "503": {503, oci.Denied}, "429": {429, oci.Denied},
		"401": {401, oci.Unauthorized}, "403": {403, oci.Unauthorized}, "400": {400, oci.Unauthorized}, "404": {404, oci.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newScoped(t, func(r *http.Request) (int, error) {
					switch {
					case r.URL.Query().Get("scope") == "repository:bad/app:pull":
						return http.StatusUnauthorized, nil
					case r.URL.Query().Get("scope") != "":
						return http.StatusOK, nil
					case c.login == 0:
						<-r.Context().Done()
						return 0, r.Context().Err()
					}
					return c.login, nil
				})
				cred, began := testAccount("acme", "ci", "bot", "pw"), time.Now()
				ask := func(repo string) error {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.test/v2/"+repo+"/manifests/1", nil)
					if err != nil {
						t.Fatal(err)
					}
					return a.Authorize(t.Context(), r, cred, repo)
				}
				ocitest.WantClass(t, ask("bad/app"), c.want)
				if took := time.Since(began); took > loginFor {
					t.Errorf("it took %v", took)
				}
				if err := ask("team/app"); (err == nil) != (c.want == oci.Denied) {
					t.Errorf("another repository: %v", err)
				}
			})
		})
	}
}

// newScoped speaks for a registry whose token endpoint answers by status.
func newScoped(t *testing.T, status func(*http.Request) (int, error)) *Client {
	t.Helper()
	a, err := New(Options{
		Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Registry: "registry.test",
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			answer := &http.Response{StatusCode: http.StatusUnauthorized, Request: r, Header: http.Header{
				"Www-Authenticate": {`Bearer realm="https://registry.test/token",service="registry.test"`},
			}, Body: http.NoBody}
			if r.URL.Path == "/v2/" {
				return answer, nil
			}
			var err error
			answer.Header = http.Header{}
			if answer.StatusCode, err = status(r); err != nil {
				return nil, &oci.Error{Class: oci.Timeout, Message: "it took too long", Err: err}
			}
			answer.Body = io.NopCloser(strings.NewReader(`{"token":"t","expires_in":300}`))
			return answer, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}
