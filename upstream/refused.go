package upstream

import (
	"context"
	"net/http"
	"strings"

	"berth/oci"

	"berth/upstream/classify"
)

// refused makes the error of an answer that is not what c asked for, and closes
// it.
func (s *source) refused(ctx context.Context, a *answer, c *call) error {
	text, _, err := a.slurp(classify.MaxErrorBody, errorLimit)
	if err != nil && ctx.Err() != nil {
		return err
	}
	text = versions(a.Header, text)[0]
	if a.target != nil {
		return s.targetRefused(a, c, text)
	}
	e := s.meaning(a, c, text)
	// A 401 has been settled before. A 403 that says so is to be: a registry that passes on
	// what another one answers has the words of whoever owns one repository there.
	if e.Class == oci.Unauthorized && a.StatusCode == http.StatusForbidden && s.stillTaken(context.WithoutCancel(a.body.ctx), a.cred, c) {
		a.basic = false
		e = s.meaning(a, c, text)
	}
	s.heed(ctx, a, e)
	return a.body.who.about(oci.AsError(s.named(e, c.repo)))
}

// meaning is the error of an answer of the registry itself, with its text.
func (s *source) meaning(a *answer, c *call, text []byte) *oci.Error {
	return classify.Answer(classify.Response{
		Registry: s.name, Type: s.kind, Credential: a.cred, Basic: a.basic,
		Repo: c.repo, Kind: c.op.kind(),
		Status: a.StatusCode, Header: a.Header, Body: text, Now: s.now(),
	})
}

// named puts the organisation into a refusal for the want of a credential:
// package auth does not know for whom nobody asks.
func (s *source) named(err error, repo string) error {
	e := oci.AsError(err)
	if e.Class != oci.NoCredential || s.id.Organisation == "" {
		return err
	}
	named := classify.NoCredential(s.id.Organisation, s.name, repo)
	named.Err, named.Detail = e.Err, e.Detail
	return named
}

// targetRefused is about a redirect target. It is no authority on rights, so
// whatever it says denies nothing. What it lacks is not there, if it is itself a
// registry (registry.k8s.io sends everyone to the nearest one); a storage that
// lacks an object which the registry has just vouched for is in trouble.
func (s *source) targetRefused(a *answer, c *call, text []byte) error {
	if a.StatusCode == http.StatusNotFound && speaksRegistry(text) {
		return a.body.who.about(&oci.Error{
			Class:   oci.NotFound,
			Code:    c.op.unknown(),
			Message: a.body.who.says() + "has no such " + c.op.object() + ": check the name",
		})
	}
	if wantsSignIn(a) { // no credential of this registry goes there, and there is no other
		e := a.body.who.nonsense("sent us to %s, which is a registry with a sign-in of its own: add it under registries, and pull from it", a.target.Host)
		e.Status, e.Code, e.Err, e.NotUnderstood = http.StatusForbidden, oci.CodeDenied, nil, true
		return e
	}
	e := a.body.who.nonsense("sent us to %s, which answered %d; try again", a.target.Host, a.StatusCode)
	e.Err = nil // other targets were tried
	// Whoever asks too much there is not one whom nobody answers.
	e.NotUnderstood = classify.MayBeRefusal(a.StatusCode) || a.StatusCode == http.StatusTooManyRequests
	return e
}

// speaksRegistry says whether text is an error document of the distribution
// specification.
func speaksRegistry(text []byte) bool {
	doc, err := oci.DecodeJSON[struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}](text)
	return err == nil && len(doc.Errors) > 0 && strings.HasSuffix(doc.Errors[0].Code, "_UNKNOWN")
}
