package classify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"berth/internal/descriptor"
	"berth/oci"
)

// Failure says what it means that a request to a registry had no
// answer: Timeout, Unreachable with the reason, or what the context says. host
// is where it went, for the message: a host and port, no URL. An *oci.Error in
// err is returned as it is; nil for nil.
func Failure(registry, host string, err error) *oci.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e
	}
	err = bare(err)
	if descriptor.Exhausted(err) {
		return descriptor.Error(err)
	}
	if errors.Is(err, context.Canceled) {
		return oci.AsError(err)
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout() {
		return &oci.Error{Class: oci.Timeout, Message: fmt.Sprintf("%s gave no answer in time: try again", at(registry, host)), Err: err}
	}
	return &oci.Error{Class: oci.Unreachable, Message: fmt.Sprintf("%s cannot be reached: %s", at(registry, host), unreachable(err)), Err: err}
}

func at(registry, host string) string {
	if host == "" || host == registry {
		return registry
	}
	return fmt.Sprintf("%s (%s)", registry, host)
}

// bare takes the URL off, with its query.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func unreachable(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "there is no such host name: check the registry's name and this node's DNS"
		}
		return "its name cannot be looked up: check this node's DNS"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused: try again"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no route: check this node's network"
	}
	if why := untrusted(err); why != "" {
		return why
	}
	return "the connection failed: try again"
}

func untrusted(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "this node does not know who signed its certificate: add ca_file"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another name"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "its certificate " + OutOfTime(e)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is not valid"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "it does not speak TLS there: is the endpoint http?"
	}
	return ""
}

// OutOfTime says when a certificate is good that is not good now, and what this node's
// clock says.
func OutOfTime(e x509.CertificateInvalidError) string {
	const minute = "2006-01-02 15:04"
	return fmt.Sprintf("is valid from %s to %s UTC (%s): it has to be renewed, or this node's clock set",
		e.Cert.NotBefore.UTC().Format(minute), e.Cert.NotAfter.UTC().Format(minute), e.Detail)
}
