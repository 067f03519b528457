package proxy

import (
	"fmt"
	"net/http"

	"berth/auth/caller"
	"berth/oci"
)

// Callers proves who sent a request. Its errors are answered as they are; one
// that is no *oci.Error is a 401.
type Callers interface {
	Identify(r *http.Request) (caller.Caller, error)
}

// challenge is the only one there is: dockerd and containerd fail hard on a
// scheme they have no credentials for, and oras reads the first header only.
const challenge = `Basic realm="berth"`

// identify finds out who is calling. It must come before anything that depends
// on what is cached or known, so that who is nobody learns nothing.
func (q *request) identify() error {
	if q.h.Callers == nil {
		q.caller = caller.Caller{Organisation: q.h.Organisation}
		q.identified = true
		q.trace()
		return q.peer.letIn(&q.deadline, guest)
	}
	caller, err := q.h.Callers.Identify(q.r)
	if err == nil && caller.Organisation == "" {
		err = fmt.Errorf("the caller is nobody")
	}
	if err != nil {
		return unproven(err)
	}
	q.caller, q.identified = caller, true
	q.trace()
	return q.peer.letIn(&q.deadline, known)
}

// unproven keeps what Callers says to the client, and closes the door on
// everything that it did not foresee.
func unproven(err error) error {
	if e := oci.AsError(err); e.Class == oci.Caller {
		return err
	}
	return &oci.Error{
		Class:   oci.Caller,
		Message: "the login could not be checked: the user name is the organisation, the password one of its tokens",
		Err:     err,
	}
}

// isChallenge says that e is a mere invitation to log in: every client's first
// request to a port that wants credentials comes without them.
func (q *request) isChallenge(e *oci.Error) bool {
	return q.mayChallenge(e) && q.r.Header.Get("Authorization") == "" && q.r.Header.Get("X-Meta-Berth") == ""
}

// mayChallenge says whether e is a 401 to somebody unknown. A 401 from anywhere
// behind identify is not the client's to answer: it has logged in.
func (q *request) mayChallenge(e *oci.Error) bool {
	return e.Class == oci.Caller && !q.identified && e.HTTPStatus() == http.StatusUnauthorized
}
