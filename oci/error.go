package oci

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Code is an error code of the distribution specification, as it goes out in
// the JSON of an answer.
type Code string

// The codes this program answers with.
const (
	CodeBlobUnknown     Code = "BLOB_UNKNOWN"
	CodeDenied          Code = "DENIED"
	CodeDigestInvalid   Code = "DIGEST_INVALID"
	CodeManifestInvalid Code = "MANIFEST_INVALID"
	CodeManifestUnknown Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid     Code = "NAME_INVALID"
	CodeNameUnknown     Code = "NAME_UNKNOWN"
	CodeTooManyRequests Code = "TOOMANYREQUESTS"
	CodeUnauthorized    Code = "UNAUTHORIZED"
	CodeUnknown         Code = "UNKNOWN"
	CodeUnsupported     Code = "UNSUPPORTED"
)

// Error is a failure that a client may be told about. Everything in it but Err
// is safe to show: it holds no secret, no URL query and no raw upstream body.
type Error struct {
	Class Class
	// Status and Code override what the Class says. Zero: the Class decides.
	// Code is NAME_UNKNOWN where the whole repository is unknown: that denies
	// access, while any other 404 says nothing about it.
	Status int
	Code   Code
	// Message is one line for the person who pulls: organisation, account,
	// registry, repository, what happened, what to do. Never empty and never
	// the specification's default text (dockerd retries errors that look bare).
	Message string
	// Detail is a short string, or empty. Some clients print it.
	Detail string
	// RetryAfter is when another try makes sense. Zero: unknown.
	RetryAfter time.Duration
	// NotUnderstood: somebody answered, and said neither yes nor no: a web page,
	// an odd status, a document that is no manifest. The Class still decides what
	// the client is told; for rights such an answer takes nothing away, and makes
	// what was proven before count for less long.
	NotUnderstood bool
	// Counted: the registry sent a manifest, which is of no use. What it counts as a pull
	// is spent.
	Counted bool
	// Rule is what in the configuration refused, such as "limits.requests"; empty
	// where it is nothing that somebody wrote.
	Rule string
	// About is whom and what Message names.
	About About
	// Err is the cause, for the log. It may be nil.
	Err error
}

// About is on whose behalf a registry was asked when it failed. One request may
// be made for many (a download that several wait for, an answer to those who
// share a principal), and nobody may be told another's name, account or repository.
// Zero: the Message names nobody.
type About struct {
	// Organisation is whom the Message begins with: "organisation NAME".
	Organisation string
	Principal    Principal
	Repo         string
}

// For is e in words for organisation (empty: for nobody by name), where whoever
// asked the registry had the same principal.
func (e *Error) For(organisation string) *Error {
	if e.About.Organisation == organisation {
		return e
	}
	rest, named := strings.CutPrefix(e.Message, "organisation "+e.About.Organisation)
	if !named || e.About.Organisation == "" {
		return e
	}
	told := *e
	told.About.Organisation = organisation
	if organisation == "" {
		told.Message = strings.TrimPrefix(rest, ": ")
	} else {
		told.Message = "organisation " + organisation + rest
	}
	return &told
}

// Error is the message, and the cause behind it.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// HTTPStatus is the status for the client.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return e.Class.Status()
}

// WireCode is the error code for the client.
func (e *Error) WireCode() Code {
	if e.Code != "" {
		return e.Code
	}
	return e.Class.Code()
}

// AsError finds the Error in err, or makes one of it: a context that was
// cancelled is ClientGone, one that ran out is Timeout, anything else is
// UpstreamError. It returns nil only for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Class: ClientGone, Message: "the client left", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Class: Timeout, Message: "no answer in time; try again", Err: err}
	}
	return &Error{Class: UpstreamError, Message: "the request failed inside the proxy; its log has the cause", Err: err}
}

// Indeterminate says that err tells nothing about rights or existence.
func Indeterminate(err error) bool {
	return err != nil && (AsError(err).NotUnderstood || ClassOf(err).Indeterminate())
}

// ClassOf is the class of err; Unclassified for nil.
func ClassOf(err error) Class {
	if err == nil {
		return Unclassified
	}
	return AsError(err).Class
}

// OneLine makes foreign text fit to be shown on a terminal and in a log:
// control characters, line ends and marks that reorder text become spaces, runs
// of them one, bytes that are no UTF-8 become U+FFFD, and at most limit bytes
// stay.
func OneLine(s string, limit int) string {
	if len(s) <= limit && plain(s) {
		return s
	}
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "\ufffd"), unprintable), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// plain says that s is one word of ASCII, as nearly everything in a log line is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func unprintable(r rune) bool {
	return r == ' ' || unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// badRequest is an answer to a request that could not be understood. It is no
// failure of a pull, so it has no class of its own.
func badRequest(status int, code Code, format string, args ...any) *Error {
	return &Error{Class: Policy, Status: status, Code: code, Message: OneLine(fmt.Sprintf(format, args...), 400)}
}
