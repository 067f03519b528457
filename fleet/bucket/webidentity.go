package bucket

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"berth/internal/fileid"
)

const (
	// maxToken is how long a token may be that a file has, and maxAnswer how much is read of
	// what the token service says.
	maxToken, maxAnswer = 64 << 10, 64 << 10
)

// webIdentity has Amazon's token service give out a role for a token of another identity
// provider, as a pod of Kubernetes has one of its service account. This is one request
// without a signature. The SDK's provider for it would add the whole client of the service.
type webIdentity struct {
	client *http.Client
	role   string
	// file holds the token: it is read each time, since whoever wrote it replaces it.
	file, session, endpoint string
}

// newWebIdentity is what the environment names; nil: nothing.
func newWebIdentity(client *http.Client) aws.CredentialsProvider {
	role, file := os.Getenv("AWS_ROLE_ARN"), os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE")
	if role == "" || file == "" {
		return nil
	}
	region := cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), "us-east-1")
	domain := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	return webIdentity{
		client: client, role: role, file: file, session: cmp.Or(os.Getenv("AWS_ROLE_SESSION_NAME"), "berth"),
		endpoint: cmp.Or(os.Getenv("AWS_ENDPOINT_URL_STS"), "https://sts."+region+"."+domain+"/"),
	}
}

// Retrieve is aws.CredentialsProvider's. No error repeats what the service said but for its
// code.
func (p webIdentity) Retrieve(ctx context.Context) (aws.Credentials, error) {
	token, _, err := fileid.Read(p.file, maxToken)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("the token of AWS_WEB_IDENTITY_TOKEN_FILE: %w", err)
	}
	form := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"},
		"RoleArn": {p.role}, "RoleSessionName": {p.session}, "WebIdentityToken": {strings.TrimSpace(string(token))},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return aws.Credentials{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := p.client.Do(req)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("asking Amazon's token service: %w", err)
	}
	defer resp.Body.Close()
	var said struct {
		Key     string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
		Secret  string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
		Session string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
		Until   time.Time `xml:"AssumeRoleWithWebIdentityResult>Credentials>Expiration"`
		Code    string    `xml:"Error>Code"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("asking Amazon's token service: %w", err)
	}
	err = xml.Unmarshal(text, &said)
	switch {
	case resp.StatusCode != http.StatusOK && err == nil && codeForm.MatchString(said.Code):
		return aws.Credentials{}, fmt.Errorf("the token service gives out no role: %w", &answerError{resp.StatusCode, said.Code})
	case resp.StatusCode != http.StatusOK:
		return aws.Credentials{}, fmt.Errorf("the token service gives out no role: %w", &answerError{status: resp.StatusCode})
	case err != nil || said.Key == "" || said.Secret == "" || said.Session == "" || said.Until.IsZero():
		return aws.Credentials{}, errors.New("the token service's answer has no access key in it")
	}
	return aws.Credentials{
		AccessKeyID: said.Key, SecretAccessKey: said.Secret, SessionToken: said.Session,
		CanExpire: true, Expires: said.Until.Add(-time.Minute), // what is signed now must arrive in time
	}, nil
}
