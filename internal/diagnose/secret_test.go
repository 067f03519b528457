package diagnose

import (
	"strings"
	"testing"

	"berth/internal/secret"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

func TestHints(t *testing.T) {
	for _, c := range []struct {
		kind, user, secret, want string // want: parts, separated by "; "
	}{
		{dialect.GHCR, "bot", "ghp_x", ""},
		{dialect.GHCR, "bot", "github_pat_x", "refuses fine-grained tokens; Tokens (classic)"},
		{dialect.GHCR, "bot", "ghs_x", "refuses tokens of GitHub Apps; read:packages"},
		{dialect.GHCR, "bot", "ghu_x", "refuses tokens of GitHub Apps"},
		{dialect.GHCR, "bot", "hunter2", "looks like a password: GitHub takes"},
		{dialect.GHCR, "bot", "dckr_pat_x", "looks like an access token of Docker Hub, and this is reg.test"},
		{dialect.DockerHub, "bot", "dckr_pat_x", ""},
		{dialect.DockerHub, "me@example.com", "hunter2", "looks like a password: Docker Hub; wants the Docker ID"},
		{dialect.DockerHub, "bot", "dop_v1_x", "an API token of DigitalOcean"},
		{dialect.DigitalOcean, "", "dop_v1_x", ""},
		{dialect.DigitalOcean, "bot", "hunter2", "looks like a password: DigitalOcean takes"},
		{dialect.Quay, "acme+robot", "ABC", ""},
		{dialect.Quay, "$oauthtoken", "ABC", ""},
		{dialect.Quay, "me", "ABC", "none of a robot account"},
		{dialect.Quay, "acme+robot", "ghp_x", "of GitHub"},
		{dialect.Generic, "bot", "anything", ""},
		{dialect.Generic, "bot", "glpat-x", ""},
		{dialect.Generic, "AWS", "AKIAX", "ecr-login"},
		{dialect.Generic, "bot ", " x", "the secret begins or ends with white space; the user name begins or ends"},
	} {
		got := hints(c.kind, "reg.test", &credential.Credential{Username: secret.New(c.user), Password: secret.New(c.secret)})
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
