package classify

import (
	"net/http"
	"testing"

	"berth/auth/credential"
)

// What is neither yes nor no, by status and by what it is written as. A page says
// nothing about rights, unless it stands beside the challenge of a 401, as nginx
// writes it where it guards a registry by a password. Trouble and limits are what
// they are, also as pages.
func TestClassify_WhatIsNotUnderstood(t *testing.T) {
	page := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	guarded := http.Header{"Content-Type": {"text/html"}, "Www-Authenticate": {`Basic realm="registry"`}}
	for status, want := range map[int]struct{ plain, page, guarded bool }{
		200: {true, true, true}, 204: {true, true, true}, 302: {true, true, true},
		400: {true, true, true}, 401: {false, true, false}, 402: {false, true, true}, 403: {false, true, true},
		404: {false, true, true}, 405: {true, true, true}, 406: {true, true, true}, 408: {}, 409: {true, true, true},
		410: {false, true, true}, 416: {true, true, true}, 418: {true, true, true}, 423: {true, true, true}, 429: {},
		451: {false, true, true}, 500: {}, 501: {}, 502: {}, 503: {}, 504: {}, 511: {true, true, true}, 520: {}, 799: {true, true, true},
	} {
		for _, c := range []struct {
			header http.Header
			want   bool
		}{{http.Header{}, want.plain}, {page, want.page}, {guarded, want.guarded}} {
			for _, cred := range []*credential.Credential{testAccount("acme", "ci", "bot", "pw"), testAccount("", "shared", "bot", "pw"), nil} {
				for _, basic := range []bool{true, false} {
					e := Answer(Response{Registry: "r", Credential: cred, Basic: basic && cred != nil, Repo: "x", Status: status, Header: c.header})
					if e.NotUnderstood != c.want {
						t.Errorf("%d, %v, %v: not understood %v (%v)", status, c.header, cred, e.NotUnderstood, e)
					}
				}
			}
		}
	}
	for body, want := range map[string]bool{
		`{"errors":[{"code":"DENIED"}]}`: false, `{"errors":[{"code":"UNSUPPORTED"}]}`: true,
	} {
		if e := Answer(Response{Registry: "r", Credential: testAccount("acme", "ci", "bot", "pw"), Repo: "x", Status: 405, Header: http.Header{}, Body: []byte(body)}); e.NotUnderstood != want {
			t.Errorf("405 %s: %v", body, e.NotUnderstood)
		}
	}
}
