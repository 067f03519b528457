package classify

import (
	"context"
	"errors"
	"fmt"

	"berth/oci"
)

// Failure says what it means that a question about signing in had no answer. The errors
// of the transport are *oci.Errors and stay as they are; what is left is that time ran
// out, or that nobody waits any more. host is where it went, for the message: a host and
// port, no URL. nil for nil.
func Failure(registry, host string, err error) *oci.Error {
	if _, known := errors.AsType[*oci.Error](err); known || !errors.Is(err, context.DeadlineExceeded) {
		return oci.AsError(err)
	}
	if host != "" && host != registry {
		registry = fmt.Sprintf("%s (%s)", registry, host)
	}
	return &oci.Error{Class: oci.Timeout, Message: registry + " gave no answer in time: try again", Err: err}
}
