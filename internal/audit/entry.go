package audit

import (
	"bytes"
	"encoding/json"
	"time"
)

// Verdict is what became of a request.
type Verdict string

// The verdicts.
const (
	// Allowed was answered as it should be.
	Allowed Verdict = "allowed"
	// Stale was answered from the cache since the registry was in trouble, because of
	// what was proven before.
	Stale Verdict = "stale"
	// Bypassed was answered with what the registry sent, and not kept: the cache folder
	// could not take it.
	Bypassed Verdict = "bypassed"
	// Refused was not for this caller: 401 or 403.
	Refused Verdict = "refused"
	// Failed could not be answered, for any other reason.
	Failed Verdict = "failed"
)

// Entry is one line: a decision about an image. doc/audit.md explains the keys, which
// are those of the log for what is the same.
type Entry struct {
	Time         time.Time `json:"time"`
	RequestID    string    `json:"request_id"`
	Verdict      Verdict   `json:"verdict"`
	Organisation string    `json:"organisation,omitempty"`
	Token        string    `json:"token,omitempty"`
	Account      string    `json:"account,omitempty"`
	Client       string    `json:"client"`
	Address      string    `json:"address"`
	Method       string    `json:"method"`
	Kind         string    `json:"kind"`
	Image        string    `json:"image,omitempty"`
	Digest       string    `json:"digest,omitempty"`
	Source       string    `json:"source,omitempty"`
	Bytes        int64     `json:"bytes"`
	Status       int       `json:"status"`
	Class        string    `json:"class,omitempty"`
	Rule         string    `json:"rule,omitempty"`
	Message      string    `json:"message,omitempty"`

	// Stranger says that the caller could not prove who he is.
	Stranger bool `json:"-"`
}

// line is e as it is written: with < and > as they are, since people read it.
func (e *Entry) line() ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(e)
	return text.Bytes(), err
}
