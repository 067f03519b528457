package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// member is one key of an object, with its value as it was written.
type member struct {
	key   string
	value json.RawMessage
}

// merge is text with keys in it, nil if they were there; others are the mirrors
// besides.
func merge(text []byte, keys daemonKeys) (after []byte, others []string, err error) {
	members, err := object(text)
	if err != nil {
		return nil, nil, err
	}
	changed := false
	put := func(key string, values []string, first bool) (rest []string, err error) {
		i := slices.IndexFunc(members, func(m member) bool { return m.key == key })
		var had []string
		if i >= 0 {
			if err := json.Unmarshal(members[i].value, &had); err != nil {
				return nil, fmt.Errorf("%s is no list of strings", key)
			}
		}
		rest = slices.DeleteFunc(slices.Clone(had), func(s string) bool { return slices.Contains(values, s) })
		want := slices.Concat(rest, values)
		if first {
			want = slices.Concat(values, rest)
		}
		if len(values) == 0 || slices.Equal(had, want) {
			return rest, nil
		}
		changed = true
		value, err := json.Marshal(want)
		if i < 0 {
			members = append(members, member{key, value})
		} else {
			members[i].value = value
		}
		return rest, err
	}
	if others, err = put("registry-mirrors", keys.Mirrors, true); err != nil {
		return nil, nil, err
	}
	if _, err = put("insecure-registries", keys.Insecure, false); err != nil || !changed {
		return nil, others, err
	}
	after, err = written(members)
	return after, others, err
}

// unmerge is text without keys in it, and the same text where there are none.
func unmerge(text string, keys daemonKeys) (string, error) {
	members, err := object([]byte(text))
	if err != nil {
		return text, err
	}
	changed := false
	drop := func(key string, values []string) error {
		i := slices.IndexFunc(members, func(m member) bool { return m.key == key })
		if i < 0 {
			return nil
		}
		var had []string
		if err := json.Unmarshal(members[i].value, &had); err != nil {
			return fmt.Errorf("%s is no list of strings", key)
		}
		rest := slices.DeleteFunc(slices.Clone(had), func(s string) bool { return slices.Contains(values, s) })
		if len(rest) == len(had) {
			return nil
		}
		changed = true
		if len(rest) == 0 {
			members = slices.Delete(members, i, i+1)
			return nil
		}
		members[i].value, err = json.Marshal(rest)
		return err
	}
	if err := errors.Join(drop("registry-mirrors", keys.Mirrors), drop("insecure-registries", keys.Insecure)); err != nil || !changed {
		return text, err
	}
	if len(members) == 0 {
		return "", nil
	}
	after, err := written(members)
	return string(after), err
}

// object reads the members of a JSON object in their order; of nothing there are
// none.
func object(text []byte) ([]member, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	var all []member
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("it is no JSON: %w", err)
		}
		key, _ := t.(string)
		if slices.ContainsFunc(all, func(m member) bool { return m.key == key }) {
			return nil, fmt.Errorf("%.100q is there twice", key)
		}
		m := member{key: key}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("it is no JSON: %w", err)
		}
		all = append(all, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the JSON object")
	}
	return all, nil
}

func written(members []member) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
