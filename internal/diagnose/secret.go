package diagnose

import (
	"fmt"
	"strings"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// shapes are how the tokens of some services begin, and at which type of
// registry they serve; empty: at none that has a type of its own.
var shapes = [...]struct{ begins, what, serves string }{
	{"ghp_", "a personal access token of GitHub", dialect.GHCR},
	{"gho_", "an OAuth token of GitHub", dialect.GHCR},
	{"ghu_", "a user token of a GitHub App", dialect.GHCR},
	{"ghs_", "an installation token of GitHub, which lives for an hour", dialect.GHCR},
	{"ghr_", "a refresh token of GitHub, which opens nothing", ""},
	{"github_pat_", "a fine-grained token of GitHub", dialect.GHCR},
	{"dckr_pat_", "an access token of Docker Hub", dialect.DockerHub},
	{"dckr_oat_", "an organisation's access token of Docker Hub", dialect.DockerHub},
	{"dop_v1_", "an API token of DigitalOcean", dialect.DigitalOcean},
	{"doo_v1_", "an OAuth token of DigitalOcean", dialect.DigitalOcean},
	{"dor_v1_", "a refresh token of DigitalOcean, which opens nothing", ""},
	{"glpat-", "an access token of GitLab", dialect.Generic},
	{"gldt-", "a deploy token of GitLab", dialect.Generic},
	{"AKIA", "an access key id of AWS: ECR wants a password that is made with it (helper ecr-login)", ""},
	{"npm_", "a token of npm", ""},
	{"{", "a JSON document: at Google the user name for it is _json_key", dialect.Generic},
}

// wanted is what the registries of a type take as a password.
var wanted = map[string]string{
	dialect.GHCR:         "GitHub takes a classic personal access token (ghp_...) with read:packages, and no password",
	dialect.DockerHub:    "Docker Hub takes an access token (dckr_pat_...); the password of the account stops working with two-factor login",
	dialect.DigitalOcean: "DigitalOcean takes an API token (dop_v1_...), as user name and password, and no login",
}

// hints is what a refused secret and its user name look like. What a secret is
// like may be said, its text never.
func hints(kind, registry string, cred *credential.Credential) (all []string) {
	secret, user := cred.Password.Reveal(), cred.Username.Reveal()
	if strings.TrimSpace(secret) != secret {
		all = append(all, "the secret begins or ends with white space")
	}
	what, serves := shapeOf(strings.TrimSpace(secret))
	advice, known := wanted[kind]
	switch {
	case what != "" && serves != kind:
		all = append(all, fmt.Sprintf("the secret looks like %s, and this is %s: are two accounts mixed up?", what, registry))
	case what == "" && known:
		all = append(all, "the secret looks like a password: "+advice)
	}
	if kind == dialect.GHCR {
		all = append(all, refusedAtGHCR(strings.TrimSpace(secret))...)
	}
	all = append(all, userHints(kind, user)...)
	if d := dialect.For(registry, kind); len(all) > 0 && d.Type != dialect.Generic {
		all = append(all, "a token that can read, at "+d.Name+": "+d.Account)
	}
	return all
}

// refusedAtGHCR are the tokens of GitHub that its registry does not take, whatever
// rights they have (docs.github.com, working with the container registry).
func refusedAtGHCR(secret string) []string {
	switch {
	case strings.HasPrefix(secret, "github_pat_"):
		return []string{"GHCR refuses fine-grained tokens, whatever rights they have"}
	case strings.HasPrefix(secret, "ghu_"), strings.HasPrefix(secret, "ghs_"):
		return []string{"GHCR refuses tokens of GitHub Apps, but for the GITHUB_TOKEN of an Actions run while it lasts"}
	}
	return nil
}

func shapeOf(secret string) (what, serves string) {
	for _, s := range shapes {
		if strings.HasPrefix(secret, s.begins) {
			return s.what, s.serves
		}
	}
	return "", ""
}

func userHints(kind, user string) []string {
	switch {
	case kind == dialect.DockerHub && strings.Contains(user, "@"):
		return []string{"the user name looks like a mail address: Docker Hub wants the Docker ID"}
	case kind == dialect.Quay && !strings.ContainsAny(user, "+$"):
		return []string{"the user name is none of a robot account (organisation+robot): with a person's, Quay wants the encrypted password of the account's settings"}
	case strings.TrimSpace(user) != user:
		return []string{"the user name begins or ends with white space"}
	}
	return nil
}
