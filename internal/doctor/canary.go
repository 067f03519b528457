package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// canaryTime bounds a pull. What a client asks of a registry that is not to be reached
// takes long to fail.
const canaryTime = 30 * time.Second

// canaries has the client pull a tag that nobody has, of each repository, and looks whether
// this node was asked for it. Files say where a client should go; this says where it goes:
// a daemon may read others, or have been started before they were written. It costs the
// registry one HEAD, and no pull.
func (l *look) canaries(pull func(ctx context.Context, l *look, ref string) error) error {
	for _, repository := range l.o.Canaries {
		registry, _, _ := strings.Cut(repository, "/")
		i := slices.IndexFunc(l.client.Ways, func(w Way) bool { return w.Registry == registry })
		if i < 0 || l.client.Ways[i].Through == "" || l.client.Ways[i].Who == whoLogsIn {
			continue // it is said already, or nobody here has its login
		}
		tag := "berth-doctor-" + strings.ToLower(rand.Text())
		ctx, cancel := context.WithTimeout(l.ctx, canaryTime)
		said := pull(ctx, l, repository+":"+tag)
		cancel()
		if errors.Is(said, exec.ErrNotFound) || errors.Is(said, errNotRunning) {
			return nil // only its files are here
		}
		seen, err := l.o.Seen(l.ctx, l.client.Name, registry, tag)
		if err != nil {
			return fmt.Errorf("asking the node for what it has seen: %w", err)
		}
		l.client.Ways[i].Canary = seen
		if seen {
			continue
		}
		f := Finding{
			Problem: Bypass, Registries: []string{registry},
			Message: "its files lead here, but it was asked for " + repository + ":" + tag + ", and berth has not seen that",
			Cure:    "restart the client if it has been running for longer than its files are there; if it goes on, it reads other files, or goes over a proxy",
		}
		if said != nil {
			f.Message += "; it says: " + firstLine(said)
		}
		l.find(f)
	}
	return nil
}

// errNotRunning says that there is a client, and that its daemon does not answer: nothing
// was pulled, from anywhere.
var errNotRunning = errors.New("its daemon does not answer")

// unreached are what commands say of a daemon that does not answer at its socket.
var unreached = regexp.MustCompile(`\.sock\b.*(no such file|connection refused|permission denied)|cannot access containerd socket`)

// command is a pull by a command of the client's.
func command(name string, args ...string) func(ctx context.Context, l *look, ref string) error {
	return func(ctx context.Context, l *look, ref string) error {
		all := make([]string, 0, len(args)+1)
		for _, a := range args {
			all = append(all, strings.ReplaceAll(a, "CERTS", l.certs()))
		}
		out, err := exec.CommandContext(ctx, name, append(all, ref)...).CombinedOutput() //nolint:gosec // the client's own command, and an image that whoever runs this names
		switch {
		case err == nil || errors.Is(err, exec.ErrNotFound):
			return err
		case unreached.Match(out):
			return errNotRunning
		}
		return fmt.Errorf("%w: %s", err, lastLine(string(out)))
	}
}

// containerdPull is a pull by CRI, as Kubernetes does it, where that is to be had. A ctr is
// told where hosts.toml are, so that it says less.
func containerdPull(ctx context.Context, l *look, ref string) error {
	if !l.noCRI {
		at := "unix://" + cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), "/run/containerd/containerd.sock")
		err := command("crictl", "--runtime-endpoint", at, "--image-endpoint", at, "pull")(ctx, l, ref)
		if err == nil || !errors.Is(err, exec.ErrNotFound) && !strings.Contains(err.Error(), "nimplemented") {
			return err
		}
	}
	return command("ctr", "--namespace", "berth-doctor", "images", "pull", "--hosts-dir", "CERTS")(ctx, l, ref)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// dockerPull asks the Docker engine to pull ref, as docker pull does.
func dockerPull(ctx context.Context, l *look, ref string) error {
	at := strings.LastIndex(ref, ":")
	resp, err := askEngine(ctx, l.o.DockerSocket, http.MethodPost, "/images/create?"+url.Values{"fromImage": {ref[:at]}, "tag": {ref[at+1:]}}.Encode())
	if err != nil {
		return fmt.Errorf("%w: %w", errNotRunning, err)
	}
	defer resp.Body.Close()
	var said struct{ Message, Error string }
	for stream := json.NewDecoder(io.LimitReader(resp.Body, maxFile)); ; {
		if err := stream.Decode(&said); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if said.Message+said.Error != "" { // an error may come long after the 200
			return errors.New(said.Message + said.Error)
		}
	}
}
