package diagnose

import (
	"time"

	"berth/oci"
	"berth/upstream"
)

// State is how a step went.
type State string

// The states.
const (
	OK      State = "ok"
	Failed  State = "failed"
	Skipped State = "skipped" // it does not apply here
	Unknown State = "unknown" // the registry does not tell
)

// The steps, in their order.
const (
	StepName      = "name"      // what was asked for, and where that is
	StepAccount   = "account"   // as whom
	StepDNS       = "dns"       // the registry's address
	StepConnect   = "connect"   // a connection to it
	StepTLS       = "tls"       // its certificate
	StepPing      = "/v2/"      // does it answer like a registry
	StepChallenge = "challenge" // how does it want to be signed in to
	StepRealm     = "realm"     // may its token endpoint learn the credential
	StepToken     = "token"     // a token for the account
	StepLogin     = "login"     // /v2/ again, signed in (without an image)
	StepManifest  = "manifest"  // of the image
	StepPlatform  = "platform"  // is it built for this node
	StepBlob      = "blob"      // the first byte of a layer
	StepRateLimit = "ratelimit" // how many pulls are left
)

// Step is one step of a pull.
type Step struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Detail is one line: what was found, or what is wrong and what to do. It
	// holds no secret.
	Detail string `json:"detail,omitempty"`
	// Milliseconds is how long it took.
	Milliseconds float64 `json:"milliseconds,omitempty"`
}

// Report is what a walk found. After a step that failed there is none.
type Report struct {
	// Organisation and Account are as whom it was asked; empty: as nobody.
	Organisation string `json:"organisation,omitempty"`
	Account      string `json:"account,omitempty"`
	Registry     string `json:"registry"`
	// Fleet says that it is about what the node shares with others.
	Fleet bool `json:"fleet,omitempty"`
	// Repository and Reference are those of the image; empty: the account was
	// tested.
	Repository string `json:"repository,omitempty"`
	Reference  string `json:"reference,omitempty"`
	OK         bool   `json:"ok"`
	// Taken says that the registry was shown the account and took it, whatever came
	// after.
	Taken bool `json:"-"`
	// Class is why it failed, as in berth_pull_failures_total, and Owner who can
	// mend it.
	Class string `json:"class,omitempty"`
	Owner string `json:"owner,omitempty"`
	// Lasting says that trouble of the network does not pass by itself.
	Lasting bool   `json:"lasting,omitempty"`
	Steps   []Step `json:"steps"`
	// Hints are what else may help, one line each.
	Hints []string `json:"hints,omitempty"`

	class oci.Class
}

func (r *Report) add(name string, state State, detail string, took time.Duration) {
	r.Steps = append(r.Steps, Step{
		Name: name, State: state, Detail: oci.OneLine(detail, 800),
		Milliseconds: float64(took.Round(10*time.Microsecond)) / float64(time.Millisecond),
	})
}

// fail adds the step that failed.
func (r *Report) fail(name string, err error, took time.Duration) {
	e := oci.AsError(err)
	text := e.Message
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	r.class, r.Class, r.Owner, r.Lasting = e.Class, e.Class.String(), e.Class.Owner(), upstream.Lasting(err)
	r.add(name, Failed, text, took)
}
