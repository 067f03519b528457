package credential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"berth/internal/fileid"
	"berth/internal/hung"

	"berth/internal/secret"
)

// maxSecretFile is the largest password file, in bytes: some tokens are
// signed documents of a few KiB.
const maxSecretFile = 64 << 10

// Login is what a registry wants to know.
type Login struct {
	// Username may be empty: then Password serves as both, which is how
	// DigitalOcean takes an API token.
	Username, Password secret.Text
	// Entry names the configuration entry behind a secret that changes by
	// itself every few hours; the fingerprint then is over it. Empty: the
	// fingerprint is over user name and password.
	Entry string
	// Until is when it ends by itself; zero: it does not, as far as is known.
	Until time.Time
}

func (l Login) equal(other Login) bool {
	return l.Entry == other.Entry && l.Until.Equal(other.Until) && l.Username.Equal(other.Username) && l.Password.Equal(other.Password)
}

// Source is where a Login comes from. It is asked several times a second while
// there is traffic, so it answers from memory as long as nothing changed. Its
// errors name files and what is wrong with them, never their content.
type Source interface {
	Login(ctx context.Context) (Login, error)
}

// renewer is a Source that may keep an answer for longer than it is good.
type renewer interface {
	// Renew hears that password was refused, and says whether another answer is
	// worth asking for. It does not wait.
	Renew(password secret.Text) bool
}

// SourceFunc is a function as a Source.
type SourceFunc func(ctx context.Context) (Login, error)

// Login calls f.
func (f SourceFunc) Login(ctx context.Context) (Login, error) { return f(ctx) }

// Static is a Source for a secret that the configuration itself holds.
func Static(username string, password secret.Text) Source {
	return SourceFunc(func(context.Context) (Login, error) {
		if password.Empty() {
			return Login{}, errors.New("the password is empty")
		}
		return Login{Username: secret.New(username), Password: password}, nil
	})
}

// PasswordFile is a Source for a secret that is all of a file but one newline
// at its end. A changed file is read again.
func PasswordFile(f File, username string) Source {
	return &fileSource{file: f, limit: maxSecretFile, parse: func(content []byte) (Login, error) {
		password, err := parsePassword(content)
		return Login{Username: secret.New(username), Password: password}, err
	}}
}

func parsePassword(content []byte) (secret.Text, error) {
	text, _ := strings.CutSuffix(string(content), "\n")
	text, _ = strings.CutSuffix(text, "\r")
	switch {
	case text == "":
		return secret.Text{}, errors.New("it is empty")
	case strings.ContainsAny(text, "\r\n\x00"):
		return secret.Text{}, errors.New("it has more than one line")
	}
	return secret.New(text), nil
}

// SecretFile is a Source for a secret of a form of its own, which is all of a file, if
// check takes it; a nil check takes one line. It has no user name.
func SecretFile(f File, check func([]byte) error) Source {
	if check == nil {
		return PasswordFile(f, "")
	}
	return &fileSource{file: f, limit: maxSecretFile, parse: func(content []byte) (Login, error) {
		return Login{Password: secret.New(string(content))}, check(content)
	}}
}

// fileSource reads and parses a file once per version of it.
type fileSource struct {
	file  File
	limit int64
	parse func([]byte) (Login, error)

	mu   sync.Mutex // guards last
	last fileAnswer
}

// fileAnswer is what a version of a file says.
type fileAnswer struct {
	seen    fileid.ID
	settled bool
	login   Login
}

// Login reads the file unless it is the one that was read last time.
func (s *fileSource) Login(context.Context) (Login, error) {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	answer, err := hung.Do(s.file.Hung, hung.Limit, s.file.shown(), func() (fileAnswer, error) { return s.read(last) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = answer
	return answer.login, err
}

// read reads the file unless it is the one of last.
func (s *fileSource) read(last fileAnswer) (fileAnswer, error) {
	if last.settled {
		if info, err := s.file.lookAt(); err == nil && fileid.Of(info) == last.seen {
			return last, nil
		}
	}
	content, v, err := s.file.read(s.limit)
	if err != nil {
		return fileAnswer{}, fmt.Errorf("reading a secret: %w", err)
	}
	login, err := s.parse(content)
	if err != nil {
		return fileAnswer{}, fmt.Errorf("reading a secret from %s: %w", s.file.shown(), err)
	}
	// Whether the timestamps settle is a question about the kernel's clock, so
	// it is not asked of one that was handed in.
	return fileAnswer{seen: v, login: login, settled: v.Settled(time.Now())}, nil
}
