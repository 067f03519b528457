package node

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"berth/internal/hung"
	"berth/internal/secret"
)

const (
	// shortestToken and longestToken bound admin.token_file's token, in bytes.
	shortestToken, longestToken = 16, 4096
	// bearerSaid is how often it is logged that the token cannot be read.
	bearerSaid = time.Minute
)

// readToken reads a bearer token.
func readToken(file string) (secret.Text, error) {
	if err := secretFile(file).Check(); err != nil {
		return secret.Text{}, err
	}
	text, err := readBounded(file, longestToken)
	if err != nil {
		return secret.Text{}, err
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(text) < shortestToken || bytes.ContainsAny(text, " \t\r\n") {
		return secret.Text{}, fmt.Errorf("%s holds no token: write one line of at least %d characters without spaces, such as what openssl rand -hex 32 prints", file, shortestToken)
	}
	return secret.New(string(text)), nil
}

// checkToken says what is wrong with admin.token_file beside a web configuration file,
// if there is one.
func checkToken(file, web string) error {
	_, err := readToken(file)
	if err == nil && web != "" {
		if c, webErr := readWebConfig(web); webErr == nil && len(c.Users) > 0 {
			err = errors.New("web_config_file has basic_auth_users, and a request has one login: take them out, or this key")
		}
	}
	return prefixed("admin.token_file", err)
}

// bearer answers those who show the token in a file, which is read for each of them: a
// new one is good at once, and where there is none nobody is.
type bearer struct {
	file string
	hung *hung.Table
	log  *slog.Logger
	said atomic.Int64 // when it was logged that there is none
}

// only is next for those who show the token.
func (b *bearer) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := hung.Do(b.hung, hung.Limit, b.file, func() (secret.Text, error) { return readToken(b.file) })
		if err != nil {
			b.complain(err)
			http.Error(w, "the token of this address cannot be read: whoever runs the node finds the reason in its log", http.StatusServiceUnavailable)
			return
		}
		scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		want, got := sha256.Sum256([]byte(token.Reveal())), sha256.Sum256([]byte(strings.TrimSpace(shown)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="berth"`)
			http.Error(w, "this address wants the token of admin.token_file: send Authorization: Bearer TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (b *bearer) complain(err error) {
	now := time.Now()
	if last := b.said.Load(); now.UnixNano()-last >= int64(bearerSaid) && b.said.CompareAndSwap(last, now.UnixNano()) {
		b.log.Error("the operators' address answers nobody: the token in admin.token_file cannot be read", "err", err)
	}
}
