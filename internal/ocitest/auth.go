package ocitest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Auth is how callers prove who they are.
type Auth uint8

// The ways.
const (
	// NoAuth lets everybody read everything; an Authorization is ignored.
	NoAuth Auth = iota
	// Basic wants a name and a password with every request, also for public
	// repositories, as ECR does.
	Basic
	// Bearer wants a token from the token endpoint with every request. Nobody
	// may have one too, for public repositories, as at Docker Hub.
	Bearer
)

// Refusal is how a caller without rights to a repository is turned away. A
// repository that does not exist is refused in the same way to whoever could
// not read it anyway.
type Refusal uint8

// The refusals.
const (
	// RefuseScope: the token has fewer rights than were asked for, and the
	// registry answers 401 insufficient_scope, as Docker Hub and Quay do.
	RefuseScope Refusal = iota
	// RefuseForbidden: the registry answers 403 DENIED.
	RefuseForbidden
	// RefuseNotFound: the registry answers 404 NAME_UNKNOWN.
	RefuseNotFound
	// RefuseAtToken: the token endpoint answers 401 to nobody and 403 to
	// somebody, as GHCR does.
	RefuseAtToken
)

// TokenShape is which fields a token answer has.
type TokenShape uint8

// The shapes.
const (
	TokenFull       TokenShape = iota // token, expires_in, issued_at
	TokenOnly                         // token alone, as Quay: its life is not told
	AccessTokenOnly                   // access_token and no life, as ACR
	TokenBoth                         // token and access_token, expires_in
)

const (
	tokenPath = "/token"
	service   = "registry.test"
)

// accounts is who may read what. Guarded by Registry.mu.
type accounts struct {
	users  map[string]*user
	grants map[string]grant // by token
}

type user struct {
	password string
	identity string // an identity token, for POST
	repos    []string
}

type grant struct {
	user    string
	repos   []string
	expires time.Time
}

func newAccounts() accounts {
	return accounts{users: map[string]*user{}, grants: map[string]grant{}}
}

// AddUser makes a user, or replaces one, who may read the public repositories
// and those that a pattern names: "acme/app", "acme/**", or "**" for all.
func (r *Registry) AddUser(name, password string, repos ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.users[name] = &user{password: password, repos: repos}
}

// SetPassword rotates a password. Tokens that were issued stay good.
func (r *Registry) SetPassword(name, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.users[name].password = password
}

// SetIdentityToken gives a user an identity token, which POST takes as a
// refresh token. Options.OAuth must be on.
func (r *Registry) SetIdentityToken(name, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.users[name].identity = token
}

// SetRights replaces a user's patterns.
func (r *Registry) SetRights(name string, repos ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.users[name].repos = repos
}

// RemoveUser removes a user. Tokens that were issued stay good, unless
// Options.LiveRights is on.
func (r *Registry) RemoveUser(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.auth.users, name)
}

// ExpireTokens makes every token that was issued a bad one.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.auth.grants)
}

// SetRefusal changes how callers without rights are turned away.
func (r *Registry) SetRefusal(how Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = how
}

func (r *Registry) refusal() Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refuse
}

// mayRead says whether a user (empty: nobody) may read a repository. mu is held.
func (r *Registry) mayRead(name, repo string) bool {
	if p, ok := r.content.repos[repo]; ok && !p.private {
		return true
	}
	u, ok := r.auth.users[name]
	return ok && slices.ContainsFunc(u.repos, func(pattern string) bool { return covers(pattern, repo) })
}

func covers(pattern, repo string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "**"); ok {
		return strings.HasPrefix(repo, prefix)
	}
	return pattern == repo
}

// whois is the user behind a request's Authorization, as far as it is good.
func (r *Registry) whois(hr *http.Request) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name, password, ok := hr.BasicAuth(); ok {
		if r.checks(name, password) {
			return name
		}
		return ""
	}
	g, _ := r.grant(hr)
	return g.user
}

func (r *Registry) checks(name, password string) bool {
	u, ok := r.auth.users[name]
	return ok && u.password == password
}

// grant finds the request's token, while it is good. mu is held.
func (r *Registry) grant(hr *http.Request) (grant, bool) {
	scheme, token, _ := strings.Cut(hr.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return grant{}, false
	}
	g, ok := r.auth.grants[token]
	if !ok || !r.opts.Now().Before(g.expires) {
		return grant{}, false
	}
	return g, true
}

// authorise answers a request that may not go on, and says whether it may.
func (r *Registry) authorise(w http.ResponseWriter, hr *http.Request, req Request) bool {
	switch r.opts.Auth {
	case Basic:
		return r.authoriseBasic(w, req)
	case Bearer:
		return r.authoriseBearer(w, hr, req)
	}
	return true
}

func (r *Registry) authoriseBasic(w http.ResponseWriter, req Request) bool {
	if req.User == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+service+`"`)
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
	if req.Repo != "" && !r.reads(req.User, req.Repo) {
		r.turnAway(w, req, "")
		return false
	}
	return true
}

func (r *Registry) reads(name, repo string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mayRead(name, repo)
}

func (r *Registry) authoriseBearer(w http.ResponseWriter, hr *http.Request, req Request) bool {
	r.mu.Lock()
	g, ok := r.grant(hr)
	granted := req.Repo == "" || slices.Contains(g.repos, req.Repo)
	if r.opts.LiveRights && req.Repo != "" {
		granted = granted && r.mayRead(g.user, req.Repo)
	}
	r.mu.Unlock()
	switch {
	case !ok && hr.Header.Get("Authorization") == "":
		r.challenge(w, req, "")
		return false
	case !ok:
		r.challenge(w, req, "invalid_token")
		return false
	case !granted:
		r.turnAway(w, req, "insufficient_scope")
		return false
	}
	return true
}

func (r *Registry) turnAway(w http.ResponseWriter, req Request, why string) {
	switch r.refusal() {
	case RefuseForbidden, RefuseAtToken:
		fail(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
	case RefuseNotFound:
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	default:
		r.challenge(w, req, why)
	}
}

// challenge answers 401, as RFC 6750 section 3 has it.
func (r *Registry) challenge(w http.ResponseWriter, req Request, why string) {
	c := `Basic realm="` + service + `"`
	if r.opts.Auth == Bearer {
		c = fmt.Sprintf(`Bearer realm=%q,service=%q`, r.TokenURL(), service)
		if req.Repo != "" {
			c += fmt.Sprintf(`,scope="repository:%s:pull"`, req.Repo)
		}
		if why != "" {
			c += fmt.Sprintf(`,error=%q`, why)
		}
	}
	w.Header().Set("WWW-Authenticate", c)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// token is the token endpoint.
func (r *Registry) token(w http.ResponseWriter, hr *http.Request, req Request) {
	name, scopes, wantService, ok := r.tokenCaller(w, hr, req)
	if !ok {
		return
	}
	if wantService != service {
		fail(w, http.StatusBadRequest, "UNSUPPORTED", "unknown service")
		return
	}
	repos, refused := r.grantable(name, scopes)
	if refused && r.refusal() == RefuseAtToken {
		if name == "" {
			fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		fail(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
		return
	}
	writeJSON(w, http.StatusOK, r.issue(name, repos))
}

// tokenCaller finds out who wants a token and for what; where nobody may, it
// answers.
func (r *Registry) tokenCaller(w http.ResponseWriter, hr *http.Request, req Request) (name string, scopes []string, svc string, ok bool) {
	if hr.Method == http.MethodPost {
		return r.oauth(w, hr)
	}
	q := hr.URL.Query()
	if hr.Header.Get("Authorization") != "" && req.User == "" {
		writeJSON(w, r.opts.BadPassword, map[string]string{"details": "incorrect username or password"})
		return "", nil, "", false
	}
	return req.User, q["scope"], q.Get("service"), true
}

func (r *Registry) oauth(w http.ResponseWriter, hr *http.Request) (name string, scopes []string, svc string, ok bool) {
	if !r.opts.OAuth {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "only GET is supported")
		return "", nil, "", false
	}
	hr.Body = http.MaxBytesReader(w, hr.Body, 1<<16)
	name = r.oauthUser(hr)
	if name == "" {
		writeJSON(w, r.opts.BadPassword, map[string]string{"error": "invalid_grant"})
		return "", nil, "", false
	}
	return name, strings.Fields(hr.PostFormValue("scope")), hr.PostFormValue("service"), true
}

// oauthUser is who a form proves to be; empty for nobody.
func (r *Registry) oauthUser(hr *http.Request) string {
	grantType, token := hr.PostFormValue("grant_type"), hr.PostFormValue("refresh_token")
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := hr.PostFormValue("username"); grantType == "password" && r.checks(n, hr.PostFormValue("password")) {
		return n
	}
	for n, u := range r.auth.users {
		if grantType == "refresh_token" && token != "" && u.identity == token {
			return n
		}
	}
	return ""
}

// grantable is what of scopes a user may have, and whether something was left out.
func (r *Registry) grantable(name string, scopes []string) (repos []string, refused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range scopes {
		rest, isRepo := strings.CutPrefix(s, "repository:")
		i := strings.LastIndexByte(rest, ':')
		if !isRepo || i < 0 || !r.mayRead(name, rest[:i]) {
			refused = true
			continue
		}
		repos = append(repos, rest[:i])
	}
	return repos, refused
}

func (r *Registry) issue(name string, repos []string) map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	token := "token-" + rand.Text()
	now := r.opts.Now()
	r.auth.grants[token] = grant{user: name, repos: repos, expires: now.Add(r.opts.TokenTTL)}
	out := map[string]any{"token": token}
	switch r.opts.TokenShape {
	case TokenOnly:
		return out
	case AccessTokenOnly:
		return map[string]any{"access_token": token}
	case TokenBoth:
		out["access_token"] = token
	}
	out["expires_in"] = int(r.opts.TokenTTL / time.Second)
	out["issued_at"] = now.UTC().Format(time.RFC3339)
	return out
}

func fail(w http.ResponseWriter, status int, code, message string) {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	writeJSON(w, status, map[string][]one{"errors": {{code, message}}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
