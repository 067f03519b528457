// Package dialect is what one kind of registry does in its own way, as data: what
// users may expect of it, how they get a token that can read, and where the fact
// comes from; and which registries are known without any configuration.
// doc/registries.md is held to it.
//
// Nothing here is asked on the way of a pull. What a registry does is met by general
// means (a hint that fails is left out, a digest decides, what is not understood is
// neither yes nor no), and registries that are not listed are met by the same: a row
// says which of them it needs, and the test that shows it. The few facts that change
// what an answer means are in Type.
package dialect

import (
	"berth/oci"
)

// Dialect is one kind of registry.
type Dialect struct {
	// Name is what people call it.
	Name string
	// Host is where the hosted service is; empty for what people run themselves, or
	// where each customer has a host.
	Host string
	// Type is what the configuration calls it.
	Type string
	// SignIn, Tags, Referrers and Limits are what users may expect.
	SignIn, Tags, Referrers, Limits string
	// Account is how to get a token that can only read.
	Account string
	// Ways are what it does in its own way.
	Ways []Way
}

// Way is something that one kind of registry does in its own way.
type Way struct {
	// What it does, in one line.
	What string
	// Source is where that is said: documentation, code or a report that was read, and
	// after "reported: " one that others refer to, or that says less.
	Source string
	// Test is the name of the test that shows that it is met.
	Test string
}

// For is the dialect of a registry by its name, else by its type in the configuration;
// Other for one that is not listed.
func For(registry, typeName string) Dialect {
	if oci.IsDockerHub(registry) {
		registry = oci.DockerHub
	}
	all := Table()
	for _, d := range all {
		if d.Host != "" && d.Host == registry {
			return d
		}
	}
	for _, d := range all {
		if typeName != "" && typeName != Generic && d.Type == typeName {
			return d
		}
	}
	return Other()
}

// Other is any registry that is not listed.
func Other() Dialect {
	return Dialect{
		Name: "any other", Type: Generic,
		SignIn: "Basic, or tokens from its own host; others are listed as token_endpoints", Tags: "as it gives them, also all in one answer",
		Referrers: "as it has them, else the fallback tag", Limits: "429 and Retry-After in every form",
		Account: "an account of it that can only read",
		Ways: []Way{
			{"a Range, an encoding or a HEAD that fails", "distribution specification 1.1, pull", "TestRange_NotUnderstood"},
			{"several challenges in one header", "RFC 9110, 11.6.1", "TestChallenge_OneOfSeveral"},
			{"a token's life in any form", "distribution specification, token", "TestToken_LifeInAnyForm"},
		},
	}
}
