package diagnose

import (
	"strings"
	"testing"

	"berth/auth"
	"berth/internal/secret"
)

func TestHints(t *testing.T) {
	for _, c := range []struct {
		kind, user, secret, want string // want: parts, separated by "; "
	}{
		{auth.GHCR, "bot", "ghp_x", ""},
		{auth.GHCR, "bot", "github_pat_x", ""},
		{auth.GHCR, "bot", "hunter2", "looks like a password: GitHub takes"},
		{auth.GHCR, "bot", "dckr_pat_x", "looks like an access token of Docker Hub, and this is reg.test"},
		{auth.DockerHub, "bot", "dckr_pat_x", ""},
		{auth.DockerHub, "me@example.com", "hunter2", "looks like a password: Docker Hub; wants the Docker ID"},
		{auth.DockerHub, "bot", "dop_v1_x", "an API token of DigitalOcean"},
		{auth.DigitalOcean, "", "dop_v1_x", ""},
		{auth.DigitalOcean, "bot", "hunter2", "looks like a password: DigitalOcean takes"},
		{auth.Quay, "acme+robot", "ABC", ""},
		{auth.Quay, "$oauthtoken", "ABC", ""},
		{auth.Quay, "me", "ABC", "none of a robot account"},
		{auth.Quay, "acme+robot", "ghp_x", "of GitHub"},
		{auth.Generic, "bot", "anything", ""},
		{auth.Generic, "bot", "glpat-x", ""},
		{auth.Generic, "AWS", "AKIAX", "ecr-login"},
		{auth.Generic, "bot ", " x", "the secret begins or ends with white space; the user name begins or ends"},
	} {
		got := hints(c.kind, "reg.test", &auth.Credential{Username: secret.New(c.user), Password: secret.New(c.secret)})
		text := strings.Join(got, "\n")
		if (c.want == "") != (len(got) == 0) {
			t.Errorf("%s, %q, %q: %q", c.kind, c.user, c.secret, got)
		}
		for part := range strings.SplitSeq(c.want, "; ") {
			if !strings.Contains(text, part) {
				t.Errorf("%s, %q, %q: %q lacks %q", c.kind, c.user, c.secret, got, part)
			}
		}
		if len(c.secret) > 5 && strings.Contains(text, c.secret) {
			t.Errorf("the secret is in %q", text)
		}
	}
}
