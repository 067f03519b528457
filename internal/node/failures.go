package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/proxy"
)

// lastFailures answers berth failures.
func (n *node) lastFailures(_ context.Context, r admin.FailuresRequest) (admin.Failures, error) {
	since, err := admin.ParseSince(r.Since, n.now())
	if err != nil {
		return admin.Failures{}, &admin.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	kept, err := n.failuresOf(r.Organisation, since)
	if err != nil {
		return admin.Failures{}, err
	}
	all := admin.Failures{Failures: make([]admin.Failure, 0, len(kept))}
	for i := range kept {
		all.Failures = append(all.Failures, shownFailure(&kept[i]))
	}
	return all, nil
}

func (n *node) failuresOf(organisation string, since time.Time) ([]proxy.Failure, error) {
	switch {
	case organisation == "":
		return n.failures.All(since), nil
	case organisation == admin.Nobody:
		return n.failures.Of("", since), nil
	case !config.ValidOrganisation(organisation) || !n.knows(organisation):
		return nil, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %.100q on this node: berth status lists them", organisation)}
	}
	return n.failures.Of(organisation, since), nil
}

func (n *node) knows(organisation string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return knows(n.cfg, organisation)
}

// knows says whether there is such an organisation, though it may be out.
func knows(cfg *config.Config, organisation string) bool {
	_, there := cfg.Organisations[organisation]
	_, broken := cfg.Broken[organisation]
	return there || broken
}

func shownFailure(f *proxy.Failure) admin.Failure {
	organisation := f.Organisation
	if organisation == "" {
		organisation = admin.Nobody
	}
	return admin.Failure{
		Organisation: organisation, Registry: f.Registry, Repository: f.Repository, Reference: f.Reference,
		Class: f.Class.String(), Owner: f.Class.Owner(),
		Message: f.Message, RequestID: f.RequestID, Client: f.Client,
		Count: f.Count, First: f.First, Last: f.Last,
	}
}
