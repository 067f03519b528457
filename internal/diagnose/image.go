package diagnose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
)

// maxSmall bounds what is read whole: configurations of images.
const maxSmall = 4 << 20

// image pulls as much of the image as shows that all of it can be pulled.
func (w *walk) image(ctx context.Context) bool {
	source := w.client.As(upstream.Identity{
		Organisation: w.Organisation,
		Credential:   func(context.Context, string) (*credential.Credential, error) { return w.Credential, nil },
	})
	d, ok := w.manifest(ctx, source)
	if !ok {
		return false
	}
	doc, ok := w.decode(StepManifest, d.Data)
	if !ok {
		return false
	}
	if doc.Index() {
		if doc, ok = w.child(ctx, source, doc); !ok {
			return false
		}
	} else if !w.single(ctx, source, doc) {
		return false
	}
	if !w.firstByte(ctx, source, doc) {
		return false
	}
	w.rateLimit()
	return true
}

// manifest is what the reference means.
func (w *walk) manifest(ctx context.Context, source oci.Source) (oci.Descriptor, bool) {
	begun := time.Now()
	d := oci.Descriptor{Digest: oci.Digest(w.Reference)}
	if !strings.Contains(w.Reference, ":") { // a tag has none
		resolved, err := source.Resolve(ctx, w.Repository, w.Reference)
		if err != nil {
			w.report.fail(StepManifest, err, time.Since(begun))
			return d, false
		}
		d = resolved.Descriptor
	}
	if d.Data == nil {
		opened, err := w.open(ctx, source, d.Digest)
		if err != nil {
			w.report.fail(StepManifest, err, time.Since(begun))
			return d, false
		}
		d = opened
	}
	w.report.add(StepManifest, OK, fmt.Sprintf("%s, %s", d.Digest, d.MediaType), time.Since(begun))
	return d, true
}

// open reads a manifest.
func (w *walk) open(ctx context.Context, source oci.Source, digest oci.Digest) (oci.Descriptor, error) {
	c, err := source.Open(ctx, oci.Object{Repo: w.Repository, Kind: oci.Manifest, Digest: digest}, oci.Range{})
	if err != nil {
		return oci.Descriptor{}, err
	}
	return c.Descriptor, nil
}

func (w *walk) decode(step string, data []byte) (*oci.Document, bool) {
	doc, err := oci.ParseManifest(data)
	if err != nil {
		w.report.fail(step, &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("it is no image that can be used: %s", err), Err: err}, 0)
		return nil, false
	}
	return doc, true
}

// child is the manifest for the platform, of an index.
func (w *walk) child(ctx context.Context, source oci.Source, index *oci.Document) (*oci.Document, bool) {
	digest, found := oci.ChoosePlatform(index.Manifests, w.Platform)
	if digest == "" {
		w.notBuilt(oci.NamePlatforms(found))
		return nil, false
	}
	begun := time.Now()
	d, err := w.open(ctx, source, digest)
	if err != nil {
		w.report.fail(StepPlatform, err, time.Since(begun))
		return nil, false
	}
	w.report.add(StepPlatform, OK, fmt.Sprintf("%s is there: %s", w.Platform, digest), time.Since(begun))
	return w.decode(StepPlatform, d.Data)
}

func (w *walk) notBuilt(has string) {
	if has == "" {
		has = "no image for a platform"
	}
	w.report.fail(StepPlatform, &oci.Error{
		Class:   oci.WrongPlatform,
		Message: fmt.Sprintf("it is not built for %s, it has %s: build it for %s too, or pull another", w.Platform, has, w.Platform),
	}, 0)
}

// single looks into the configuration of an image that is for one platform.
func (w *walk) single(ctx context.Context, source oci.Source, doc *oci.Document) bool {
	if doc.Config.Digest == "" || doc.Config.Size > maxSmall || !isImageConfig(doc.Config.MediaType) {
		w.report.add(StepPlatform, Unknown, "it does not say for which platform it is", 0)
		return true
	}
	begun := time.Now()
	data, err := w.read(ctx, source, doc.Config.Digest, oci.Range{}, maxSmall)
	if err != nil {
		w.report.fail(StepPlatform, err, time.Since(begun))
		return false
	}
	config, err := oci.DecodeJSON[struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	}](data)
	p, ok := oci.Platform{}, err == nil
	if ok {
		p, ok = oci.MakePlatform(config.OS, config.Architecture)
	}
	switch {
	case !ok:
		w.report.add(StepPlatform, Unknown, "it does not say for which platform it is", time.Since(begun))
	case !w.Platform.Runs(p):
		w.notBuilt("only " + p.String())
		return false
	default:
		w.report.add(StepPlatform, OK, "it is built for "+p.String(), time.Since(begun))
	}
	return true
}

func isImageConfig(mediaType string) bool {
	return mediaType == v1.MediaTypeImageConfig || mediaType == "application/vnd.docker.container.image.v1+json"
}

// read reads a piece of a blob.
func (w *walk) read(ctx context.Context, source oci.Source, digest oci.Digest, r oci.Range, most int64) ([]byte, error) {
	c, err := source.Open(ctx, oci.Object{Repo: w.Repository, Kind: oci.Blob, Digest: digest}, r)
	if err != nil {
		return nil, err
	}
	defer c.Body.Close()
	return io.ReadAll(io.LimitReader(c.Body, most))
}

// firstByte shows that layers can be fetched, wherever the registry sends us.
func (w *walk) firstByte(ctx context.Context, source oci.Source, doc *oci.Document) bool {
	blobs, begun := doc.Blobs(), time.Now()
	if len(blobs) == 0 {
		w.report.add(StepBlob, Skipped, "it has none", 0)
		return true
	}
	digest := blobs[0].Digest
	var t trace
	first, err := w.read(t.with(ctx), source, digest, oci.Range{Length: 1}, 1)
	if err == nil && len(first) == 0 && blobs[0].Size > 0 {
		err = &oci.Error{Class: oci.Corrupt, Message: "it came without a byte", Err: errors.New("an empty blob")}
	}
	if err != nil {
		w.report.fail(StepBlob, err, time.Since(begun))
		return false
	}
	w.report.add(StepBlob, OK, "the first byte came from "+t.lastHost(), time.Since(begun))
	return true
}

// rateLimit says what the answers told on the way.
func (w *walk) rateLimit() {
	families, _ := w.counts.Gather() // what could be gathered counts
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] = m.GetGauge().GetValue()
		}
	}
	left, told := values["berth_ratelimit_remaining"]
	most, bounded := values["berth_ratelimit_limit"]
	switch {
	case !told:
		w.report.add(StepRateLimit, Unknown, "not reported", 0)
	case bounded:
		w.report.add(StepRateLimit, OK, fmt.Sprintf("%.0f of %.0f pulls are left", left, most), 0)
	default:
		w.report.add(StepRateLimit, OK, fmt.Sprintf("%.0f pulls are left", left), 0)
	}
}
