package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/hung"
	"berth/internal/secret"
)

// notThere is what a helper prints that has no secret for a server (package
// credentials of docker-credential-helpers), so that it is told from one that fails.
const notThere = "credentials not found in native keychain"

const (
	// helperTimeout is how long a helper may take: they ask a cloud's API.
	helperTimeout = 10 * time.Second
	// helperEnds is how long it may take to end once it was killed.
	helperEnds = time.Second
	// helperKeeps is how long an answer is used, if it does not end before.
	helperKeeps = 15 * time.Minute
	// helperLives is when one ends that does not say when it does, where the helper
	// gives no other. The protocol tells no expiry, and the shortest lived (Google's) are
	// good for an hour.
	helperLives = time.Hour
	// helperExpires is how old an answer is that may have expired when it is
	// refused. A younger one is no good.
	helperExpires = time.Minute
	// maxHelperAnswer is the largest answer, in bytes.
	maxHelperAnswer = 64 << 10
)

// Helper is a program that knows a secret, spoken to in the protocol of
// docker-credential-helpers: "get", the server on standard input, a JSON object
// with user name and secret on standard output.
type Helper struct {
	// Name without "docker-credential-", which is looked up in PATH.
	Name string
	// Env is all that the helper finds in its environment, besides PATH.
	Env map[string]string
	// Server is what it is asked for.
	Server string
	// Hung bounds how long the program may take to be started and ended: no signal ends
	// one whose disk hangs. If nil, it is waited for.
	Hung *hung.Table
	// Now is the clock. If nil, time.Now is used.
	Now func() time.Time
}

// HelperSource is a Source that asks h, at most every quarter of an hour, or when a
// registry has refused what it said. Its fingerprint stands for the entry in the
// configuration: the secret itself changes all the time.
func HelperSource(h Helper) Source {
	if h.Now == nil {
		h.Now = time.Now
	}
	return &helperSource{Helper: h, asking: make(chan struct{}, 1)}
}

type helperSource struct {
	Helper

	asking chan struct{} // has room for whoever runs the program

	mu    sync.Mutex // guards all below
	login Login
	asked time.Time
}

// Login gives the kept answer, or asks.
func (s *helperSource) Login(ctx context.Context) (Login, error) {
	if login, ok := s.kept(); ok {
		return login, nil
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return Login{}, context.Cause(ctx)
	}
	if login, ok := s.kept(); ok { // somebody else asked meanwhile
		return login, nil
	}
	login, err := hung.Do(s.Hung, helperTimeout+2*helperEnds, "docker-credential-"+s.Name, func() (Login, error) { return s.ask(ctx) })
	if err != nil {
		return Login{}, fmt.Errorf("credential helper %q: %w", s.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	if login.Until = expiryOf(login.Password.Reveal(), now); login.Until.IsZero() {
		login.Until = now.Add(helperLives)
	}
	s.login, s.asked = login, now
	return login, nil
}

// kept is the answer, while it may be used.
func (s *helperSource) kept() (login Login, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	return s.login, now.Sub(s.asked) < helperKeeps && now.Before(s.login.Until)
}

// Renew drops the answer with password, which a registry has refused, if it may
// have expired since.
func (s *helperSource) Renew(password secret.Text) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.login.Password.Equal(password):
		return true // there is another one
	case s.Now().Sub(s.asked) < helperExpires:
		return false
	}
	s.login, s.asked = Login{}, time.Time{}
	return true
}

// ask runs the program. What it prints is never part of an error: nobody knows
// what is in it.
func (s *helperSource) ask(ctx context.Context) (Login, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	var out limitedBuffer
	c := exec.CommandContext(ctx, "docker-credential-"+s.Name, "get") //nolint:gosec // the name is on the operator's list
	c.Stdin = strings.NewReader(s.Server + "\n")
	c.Stdout = &out
	c.Env = s.environ()
	c.WaitDelay = helperEnds // for what it may have started, and left the pipe to
	switch err := c.Run(); {
	case errors.Is(err, exec.ErrNotFound):
		return Login{}, fmt.Errorf("docker-credential-%s is not in PATH: install it", s.Name)
	case ctx.Err() != nil:
		return Login{}, unlearned{fmt.Errorf("it did not answer within %v", helperTimeout)}
	case err != nil && strings.TrimSpace(out.b.String()) == notThere:
		return Login{}, fmt.Errorf("it has no secret for %s", s.Server)
	case err != nil:
		return Login{}, unlearned{fmt.Errorf("it failed for %s (%w): run it by hand to see why", s.Server, err)}
	}
	return s.parse(out.b.Bytes())
}

func (s *helperSource) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		env = append(env, k+"="+s.Env[k])
	}
	return env
}

func (s *helperSource) parse(answer []byte) (Login, error) {
	var got struct{ Username, Secret string }
	if json.Unmarshal(answer, &got) != nil {
		return Login{}, errors.New("its answer is not the JSON that the protocol wants")
	}
	switch {
	case got.Secret == "":
		return Login{}, fmt.Errorf("it has no secret for %s", s.Server)
	case got.Username == "<token>":
		return Login{}, fmt.Errorf("it has an identity token for %s, which only works interactively", s.Server)
	}
	return Login{Username: secret.New(got.Username), Password: secret.New(got.Secret), Entry: s.entry()}, nil
}

// entry names what the configuration says.
func (s *helperSource) entry() string {
	return strings.Join(append([]string{"helper", s.Name, s.Server}, s.environ()[1:]...), "\x00")
}

// limitedBuffer keeps what fits.
type limitedBuffer struct{ b bytes.Buffer }

// Write fails above the limit, which ends the program.
func (l *limitedBuffer) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxHelperAnswer {
		return 0, io.ErrShortWrite
	}
	return l.b.Write(p)
}
