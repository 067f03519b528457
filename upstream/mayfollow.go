package upstream

import (
	"errors"
	"net/url"
)

// Refusals of MayFollow. They name no URL: one in a Location header is a secret
// as long as its signature is good.
var (
	errScheme    = errors.New("the redirect is neither to https nor to http")
	errDowngrade = errors.New("the redirect leads from https to http")
	errUserinfo  = errors.New("the redirect carries a user name")
	errHost      = errors.New("the redirect names no host")
)

// MayFollow says whether a redirect from one URL to another (already made
// absolute) may be followed at all: to https, or from http to http, to a host,
// without user information. Whether credentials go along is for SameOrigin to
// say, and which addresses may be dialled for the dialer.
func MayFollow(from, to *url.URL) error {
	switch {
	case to.Scheme != "https" && to.Scheme != "http" || to.Opaque != "":
		return errScheme
	case to.User != nil:
		return errUserinfo
	case to.Hostname() == "":
		return errHost
	case to.Scheme == "http" && from.Scheme != "http":
		return errDowngrade
	}
	return nil
}
