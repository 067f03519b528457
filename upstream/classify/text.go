package classify

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"berth/oci"
)

// MaxErrorBody is how much of an error's body is worth reading, in bytes.
const MaxErrorBody = 64 << 10

// Text is what a registry or a token server says in the body of an error.
type Text struct {
	Code    string // an error code of the specification, or of a registry's own
	Message string // as it came: never shown without scrub
	Page    bool   // a web page: something else than the registry answered
}

// Read reads the forms that are in use: the specification's list of
// errors, Docker Hub's token server with a single "details", OAuth's "error"
// and "error_description", a bare "message", plain text and HTML.
func Read(header http.Header, body []byte) Text {
	if len(body) > MaxErrorBody {
		body = body[:MaxErrorBody]
	}
	body = bytes.TrimSpace(body)
	if IsPage(header) || bytes.HasPrefix(body, []byte("<")) {
		return Text{Page: true}
	}
	if !bytes.HasPrefix(body, []byte("{")) {
		return Text{Message: string(body)}
	}
	return readJSON(body)
}

// IsPage says that an answer is for people: a login page, or what a firewall has to say.
func IsPage(header http.Header) bool {
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.Contains(strings.ToLower(mediaType), "html")
}

func readJSON(body []byte) Text {
	f := Text{Code: strictest(codes(body))}
	// Raw where types differ between servers: one odd field must not hide the rest.
	doc, err := oci.DecodeJSON[struct {
		Errors      []json.RawMessage `json:"errors"`
		Details     json.RawMessage   `json:"details"`
		Message     json.RawMessage   `json:"message"`
		Error       json.RawMessage   `json:"error"`
		Description json.RawMessage   `json:"error_description"`
	}](body)
	if err != nil {
		f.Message = string(body)
		return f
	}
	for _, raw := range doc.Errors {
		e, err := oci.DecodeJSON[struct {
			Message json.RawMessage `json:"message"`
		}](raw)
		if f.Message = text(e.Message); err == nil {
			return f
		}
		if f.Message = text(raw); f.Message != "" {
			return f
		}
	}
	for _, raw := range []json.RawMessage{doc.Details, doc.Message, doc.Description, doc.Error} {
		if f.Message = text(raw); f.Message != "" {
			break
		}
	}
	return f
}

// codes are the error codes in a JSON document, in their order and wherever they stand:
// one that says two things, in two errors or under one key twice, or that ends early,
// must not hide that one of them takes a right away.
func codes(body []byte) (found []string) {
	words := json.NewDecoder(bytes.NewReader(body))
	var open []json.Delim // what we are in
	key, isKey := "", false
	for {
		word, err := words.Token()
		if err != nil {
			return found
		}
		inObject := len(open) > 0 && open[len(open)-1] == '{'
		switch w := word.(type) {
		case json.Delim:
			if w == '{' || w == '[' {
				open = append(open, w)
			} else {
				open = open[:len(open)-1]
			}
			isKey = false
			continue
		case string:
			if inObject && !isKey {
				key, isKey = w, true
				continue
			}
			if code := errorCode(w); inObject && code != "" && strings.EqualFold(key, "code") {
				found = append(found, code)
			}
		}
		isKey = false
	}
}

// strictest is the code that decides: one that takes a right away, and else the first.
func strictest(codes []string) string {
	for _, code := range []oci.Code{oci.CodeNameUnknown, oci.CodeDenied} {
		if slices.Contains(codes, string(code)) {
			return string(code)
		}
	}
	if len(codes) == 0 {
		return ""
	}
	return codes[0]
}

func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s) // anything but a string counts as nothing
	return s
}

// errorCode is s where it looks like a code, so that it is safe to show.
func errorCode(s string) string {
	s = strings.ToUpper(s)
	if len(s) > 40 || strings.ContainsFunc(s, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') }) {
		return ""
	}
	return s
}

// Says looks for a phrase in the message, whatever its case.
func (f Text) Says(phrase string) bool {
	return strings.Contains(strings.ToLower(f.Message), phrase)
}

// SaysExpired says whether a 403 is about a password, whose time is over. ECR: "Your
// authorization token has expired. Reauthenticate and try again."
func (f Text) SaysExpired() bool { return f.Says("token has expired") }
