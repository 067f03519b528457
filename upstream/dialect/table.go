package dialect

import (
	"slices"

	"berth/oci"
)

const suite = "TestZoo"

// Table is every kind of registry that is known, in the order of the documentation.
func Table() []Dialect { return slices.Concat(platform(), clouds(), own()) }

// platform are the four that organisations of the platform bring accounts for.
func platform() []Dialect {
	return []Dialect{
		{
			Name: "Docker Hub", Host: oci.DockerHub, Type: DockerHub,
			SignIn: "tokens of auth.docker.io", Tags: "yes", Referrers: "since 2025, else the fallback tag",
			Limits:  "GETs of manifests by account, or by address without one; everything by address",
			Account: "Account settings, Personal access tokens: one with \"Public Repo Read-only\" or \"Read-only\" access; the user name is the Docker ID",
			Ways: []Way{
				{"two limits: one explained in JSON stops GETs of manifests, a bare 429 stops the address", "https://docs.docker.com/docker-hub/usage/", "TestQuirks"},
				{"401 for what an account may not see, and for what is not there", "reported: https://docs.docker.com/reference/api/registry/auth/", suite},
			},
		},
		{
			Name: "GitHub (GHCR)", Host: "ghcr.io", Type: GHCR,
			SignIn: "tokens of its own host", Tags: "yes", Referrers: "no: the fallback tag",
			Limits:  "requests a minute; the wait is in the text",
			Account: "Settings, Developer settings, Personal access tokens, Tokens (classic): one with read:packages alone; the user name is the GitHub login. GHCR refuses fine-grained tokens and tokens of GitHub Apps",
			Ways: []Way{
				{"403 from the token endpoint to a token that is no good, and to a good one without the right", "reported: https://docs.github.com/en/packages/working-with-a-github-packages-registry/working-with-the-container-registry", suite},
				{"no referrers: 404", "https://github.com/rtvkiz/minimal/issues/7", suite},
				{"whoever asks for referrers is sent to a web page (303)", "reported: https://github.com/artifacthub/hub/issues/4785", "TestReferrers_WhereThereAreNone"},
				{"the wait of a 429 is in its text", "https://github.com/dependabot/cli/issues/380", "TestQuirks"},
			},
		},
		{
			Name: "DigitalOcean", Host: "registry.digitalocean.com", Type: DigitalOcean,
			SignIn: "tokens of api.digitalocean.com", Tags: "yes", Referrers: "no: the fallback tag",
			Limits:  "429",
			Account: "API, Tokens: a custom-scoped one with registry:read alone, or `doctl registry docker-config --read-write=false`; the token is the user name and the password",
			Ways: []Way{
				{"400 from the token endpoint for a registry that does not exist", "reported: https://docs.digitalocean.com/products/container-registry/", "TestQuirks"},
				{"the token endpoint is on another host, and has no POST", "reported: https://docs.digitalocean.com/products/container-registry/", suite},
			},
		},
		{
			Name: "Quay", Host: "quay.io", Type: Quay,
			SignIn: "tokens of its own host", Tags: "at most 100 in a page: more is 413", Referrers: "yes",
			Limits:  "bursts, by a page without Retry-After",
			Account: "Account settings, Robot accounts: one with read permission on the repositories; the user name is NAMESPACE+ROBOT",
			Ways: []Way{
				{"413 to a page of more than 100 tags", "https://github.com/google/go-containerregistry/issues/1963", "TestTagList_RefusedInItsOwnWords"},
				{"405 DENIED for a namespace that was disabled", "https://github.com/quay/quay, endpoints/v2/errors.py", "TestQuirks"},
				{"tokens that do not say how long they live", "reported: https://github.com/quay/quay, endpoints/v2/v2auth.py", suite},
			},
		},
	}
}

// clouds are those of whom every customer has a host.
func clouds() []Dialect {
	return []Dialect{
		{
			Name: "Amazon (ECR)", Type: Generic,
			SignIn: "Basic, with a password that lives for 12 hours", Tags: "a right of its own: 401 without", Referrers: "yes", Limits: "429",
			Account: "`ecr-login` as credential helper, with a role that has ecr:BatchGetImage and ecr:GetDownloadUrlForLayer",
			Ways: []Way{
				{"401 to a good account for a list that it may not have", "https://github.com/ivanilves/lstags/issues/222", "TestBasicAccount_RefusedListIsAboutLists"},
				{"403 once the password has expired", "reported: https://docs.aws.amazon.com/AmazonECR/latest/userguide/common-errors-docker.html", "TestQuirks"},
			},
		},
		{
			Name: "Azure (ACR)", Type: Generic,
			SignIn: "tokens of its own host", Tags: "a right of its own (metadata/read)", Referrers: "yes", Limits: "429",
			Account: "a token with the scope map _repositories_pull, or a service principal with AcrPull",
			Ways: []Way{
				{"access_token alone, without a life", "https://azure.github.io/acr/Token-BasicAuth.html", suite},
				{"a list is refused to whoever may pull", "https://github.com/Azure/acr/issues/600", suite},
			},
		},
		{
			Name: "Google (Artifact Registry)", Type: Generic,
			SignIn: "tokens of its own host", Tags: "yes", Referrers: "yes", Limits: "429, by project",
			Account: "a service account with roles/artifactregistry.reader; its key as password of _json_key",
			Ways:    []Way{{"403 for what an account may not see", "reported: https://cloud.google.com/artifact-registry/docs/docker/authentication", suite}},
		},
		{
			Name: "GitLab", Host: "registry.gitlab.com", Type: Generic,
			SignIn: "tokens of gitlab.com/jwt/auth, which is known; that of your own is named under token_endpoints", Tags: "yes", Referrers: "by release, else the fallback tag", Limits: "429",
			Account: "a deploy token with read_registry",
			Ways:    []Way{{"the dependency proxy redirects manifests too", "reported: https://docs.gitlab.com/user/packages/dependency_proxy/", suite}},
		},
	}
}

// own are those that people run themselves.
func own() []Dialect {
	return []Dialect{
		{
			Name: "Harbor", Type: Generic,
			SignIn: "tokens of its own host", Tags: "yes", Referrers: "yes", Limits: "429 of what is in front of it",
			Account: "a robot account with pull permission",
			Ways: []Way{
				{"a Basic challenge to whoever shows a token", "https://github.com/goharbor/harbor, src/server/middleware/v2auth/auth.go", "TestQuirks"},
				{"a manifest sent as another type", "https://github.com/goharbor/harbor/issues/15837", "TestMediaType_OfTheDocument"},
			},
		},
		{
			Name: "Nexus", Type: Generic,
			SignIn: "Basic", Tags: "yes", Referrers: "no: the fallback tag", Limits: "none of its own",
			Account: "a user with nx-repository-view-docker-*-read",
			Ways: []Way{
				{"401 to a good account for one repository", "https://github.com/hashicorp/terraform/issues/35370", "TestBasicAccount_OneRefusalIsNotAll"},
				{"a Link with its own idea of path and host", "https://github.com/sonatype/nexus-public/issues/1011", "TestTagList_NextPage"},
				{"several token services on one host", "https://github.com/sonatype/nexus-public/issues/873", "TestTokenService_OfEachRepository"},
			},
		},
		{
			Name: "Artifactory", Type: Generic,
			SignIn: "tokens of its own host", Tags: "yes", Referrers: "since 7.90.1", Limits: "429 of what is in front of it",
			Account: "an identity token of a user with read permission",
			Ways:    []Way{{"a Range fails where it is a cache of another registry", "https://github.com/bottlerocket-os/bottlerocket/issues/4709", "TestRange_NotUnderstood"}},
		},
		{
			Name: "Gitea", Type: Generic,
			SignIn: "tokens of its own host", Tags: "yes", Referrers: "no: the fallback tag", Limits: "none of its own",
			Account: "Settings, Applications: one with read:package",
			Ways:    []Way{{"plain text, and no error document, for a path that it does not know", "https://github.com/go-gitea/gitea/issues/19704", suite}},
		},
		{
			Name: "static files", Type: Generic,
			SignIn: "none, or Basic", Tags: "no", Referrers: "no: the fallback tag", Limits: "those of its CDN",
			Account: "none",
			Ways: []Way{
				{"/v2/ is not there", "https://github.com/moby/moby/issues/15173", "TestPing_OfStaticFiles"},
				{"manifests and blobs of whatever type the server makes of a name", "https://github.com/moby/moby/issues/31318", "TestContentType_OfABlob"},
			},
		},
	}
}
