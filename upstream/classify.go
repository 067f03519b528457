package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"berth/internal/descriptor"
	"berth/oci"
)

// What ends a request from our side, as the cause of its context.
var (
	errNoHeader = errors.New("no header within the time for a call")
	errStall    = errors.New("no byte for too long")
	errTooSlow  = errors.New("the body took too long")
)

// asker is who asks for what, for messages.
type asker struct {
	registry     string
	owner        string // whose registry it is, empty: the platform's
	organisation string // empty: nobody
	payer        string // whose limits it counts against
	account      string
	repo         string
	principal    oci.Principal
}

// about says on e for whom the registry was asked. Others may wait for the same
// answer, so e itself, which they may have too, stays as it is.
func (w asker) about(e *oci.Error) *oci.Error {
	if e.About != (oci.About{}) {
		return e
	}
	told := *e
	told.About = oci.About{Organisation: w.organisation, Principal: w.principal, Repo: w.repo}
	return &told
}

// says begins every message: who, for what, where.
func (w asker) says() string {
	var b strings.Builder
	if w.organisation != "" {
		fmt.Fprintf(&b, "organisation %s: ", w.organisation)
	}
	b.WriteString(w.registry)
	if w.repo != "" {
		fmt.Fprintf(&b, ", asked for %s", w.repo)
	}
	if w.account != "" {
		fmt.Fprintf(&b, " as account %q", w.account)
	}
	if w.repo != "" || w.account != "" {
		b.WriteByte(',')
	}
	b.WriteByte(' ')
	return b.String()
}

// fault makes an *oci.Error of an error that came instead of an answer. An
// *oci.Error stays as it is; so does the end of the caller's own context.
func (w asker) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("asking %s for %s: %w", w.registry, w.repo, ctx.Err())
	}
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return w.about(e)
	}
	if descriptor.Exhausted(err) {
		return w.about(descriptor.Error(err))
	}
	where := ""
	if t, ok := errors.AsType[*targetFault](err); ok {
		where = "sent us to " + t.host + ", which "
	}
	class := classOf(err)
	return w.about(&oci.Error{
		Class: class, Message: oci.OneLine(w.says()+where+w.trouble(err), 500), Err: unquoted(err),
		// What is left here is an answer that breaks the rules of HTTP, and a redirect
		// to where nobody may be sent.
		NotUnderstood: class == oci.UpstreamError || leadsInside(err),
	})
}

// leadsInside says whether err is about a redirect target that the address policy
// refused: the registry has answered, if not with what anybody may follow.
func leadsInside(err error) bool {
	_, target := errors.AsType[*targetFault](err)
	_, refused := errors.AsType[*refusal](err)
	return target && refused
}

// nonsense is an answer that no registry should give.
func (w asker) nonsense(format string, args ...any) *oci.Error {
	return w.about(&oci.Error{Class: oci.UpstreamError, Message: oci.OneLine(w.says()+fmt.Sprintf(format, args...), 400), Err: errUnusable})
}

// notUnderstood is nonsense that says something about rights: somebody answered,
// and said neither yes nor no.
func (w asker) notUnderstood(format string, args ...any) *oci.Error {
	e := w.nonsense(format, args...)
	e.NotUnderstood = true
	return e
}

// corrupt is content that is not what was asked for.
func (w asker) corrupt(format string, args ...any) *oci.Error {
	return w.about(&oci.Error{Class: oci.Corrupt, Message: oci.OneLine(w.says()+fmt.Sprintf(format, args...), 400), Err: errUnusable})
}

// unquoted is err without what the registry wrote: net/http quotes header lines
// that it cannot read, and there may be a signed URL in one, or whatever we had
// sent. Errors that have a class of their own quote nothing.
func unquoted(err error) error {
	if classOf(err) != oci.UpstreamError {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), `"`)
	for _, before := range []string{"malformed MIME header", "unsupported transfer encoding", "invalid byte"} {
		if i := strings.Index(text, before); i >= 0 {
			text = text[:i+len(before)]
		}
	}
	return errors.New(oci.OneLine(text, 200))
}

// classOf is the class of an error of the transport.
func classOf(err error) oci.Class {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Class
	}
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case descriptor.Exhausted(err):
		return oci.Disk
	case errors.Is(err, errNoHeader), errors.Is(err, errStall), errors.Is(err, errTooSlow), errors.Is(err, errLost), errors.Is(err, context.DeadlineExceeded):
		return oci.Timeout
	case errors.Is(err, context.Canceled):
		return oci.ClientGone
	case isConnecting(err), isReset(err):
		return oci.Unreachable
	case ok && timeout.Timeout():
		return oci.Timeout
	}
	return oci.UpstreamError
}

// isConnecting says whether err happened before there was a connection to
// speak over: address policy, DNS, dial, TLS.
func isConnecting(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	_, refused := errors.AsType[*refusal](err)
	return refused || isTLS(err)
}

func isTLS(err error) bool {
	if isCertificate(err) {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	// net/http and crypto/tls have errors of their own here, without a type to
	// ask for: "net/http: TLS handshake timeout", "tls: first record ...",
	// "remote error: tls: ...".
	s := err.Error()
	return strings.Contains(s, "TLS handshake") || strings.HasPrefix(s, "tls: ") || strings.Contains(s, "remote error: tls:")
}

func isCertificate(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// Lasting says that an error of the network does not pass by itself: somebody has to
// renew a certificate, to trust it, or to mend a name or an address.
func Lasting(err error) bool {
	if isCertificate(err) {
		return true
	}
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return true
	}
	if _, refused := errors.AsType[*refusal](err); refused {
		return true
	}
	name, ok := errors.AsType[*net.DNSError](err)
	return ok && name.IsNotFound
}

// isReset says whether a connection or a stream broke off.
func isReset(err error) bool {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	// The HTTP/2 of net/http keeps its error types to itself.
	s := err.Error()
	for _, broken := range []string{"stream error: ", "server sent GOAWAY", "client connection lost", "graceful shutdown GOAWAY", "server closed idle connection"} {
		if strings.Contains(s, broken) {
			return true
		}
	}
	return false
}

// permanent says that no further try within this call can help: what answers
// there is not what was configured, or no registry at all.
func permanent(err error) bool {
	if class := classOf(err); class != oci.Unreachable && class != oci.Timeout {
		return true
	}
	if _, ok := errors.AsType[*refusal](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok { // plain HTTP at an HTTPS port
		return true
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound || isCertificate(err)
}

// trouble says what happened and what to do about it. Whoever brought the registry
// chooses what its redirects name: told apart, a name that is not there, one inside and
// one that refuses would be the map of this node's network. The log has the cause.
func (w asker) trouble(err error) string {
	if _, target := errors.AsType[*targetFault](err); target && w.owner != "" && isConnecting(err) {
		return "cannot be reached from here, or may not be; have whoever runs this node look into its log"
	}
	if refused, ok := errors.AsType[*refusal](err); ok {
		return w.refusedAddress(refused)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "cannot be reached: its name does not exist in the DNS; check the registry's name and this node's resolver"
		}
		return "cannot be reached: its name cannot be looked up; check this node's resolver or try again later"
	}
	if isTLS(err) {
		return w.tlsTrouble(err)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "cannot be reached: the connection was refused; try again later"
	case isConnecting(err):
		return "cannot be reached: no connection to it came about; check this node's network or try again later"
	case classOf(err) == oci.Timeout:
		return "did not answer in time; try again later"
	case isReset(err):
		return "broke the connection off; try again later"
	}
	return "gave an answer that cannot be understood; try again later, or run berth diagnose"
}

func (w asker) tlsTrouble(err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "cannot be trusted: its TLS certificate is for another name; check the endpoint"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "cannot be trusted: its TLS certificate is signed by an unknown authority; set ca_file for it, or find out what intercepts the connection"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "cannot be trusted: its TLS certificate " + outOfTime(invalid)
	}
	if errors.Is(err, errLongChain) {
		return "cannot be trusted: it sends more than 10 TLS certificates, or 64 KiB of them; have it send its own, and those of the authorities between"
	}
	if isCertificate(err) {
		return "cannot be trusted: its TLS certificate is not valid"
	}
	return "cannot be reached: the TLS handshake failed; check that the endpoint speaks https"
}

// outOfTime says when a certificate is good that is not good now, and what this node's
// clock says.
func outOfTime(e x509.CertificateInvalidError) string {
	const minute = "2006-01-02 15:04"
	return fmt.Sprintf("is valid from %s to %s UTC (%s): it has to be renewed, or this node's clock set",
		e.Cert.NotBefore.UTC().Format(minute), e.Cert.NotAfter.UTC().Format(minute), e.Detail)
}

// refusedAddress says what to add to the configuration. The address itself is
// not shown for a registry that an organisation brought: whoever chooses the
// name could read the node's own DNS with it.
func (w asker) refusedAddress(r *refusal) string {
	if w.owner != "" {
		return "leads to " + r.why + ", where this node does not go; the operator may list it under organisation_registries: allow_private"
	}
	return fmt.Sprintf("leads to %s, %s, where this node does not go; if that is meant, add it under registries: %s: allow_private: [%s]",
		r.addr, r.why, w.registry, netip.PrefixFrom(r.addr, r.addr.BitLen()))
}
