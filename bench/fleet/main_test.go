package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// What is drawn is well-formed, and has a point for each outcome.
func TestDraw(t *testing.T) {
	all := []outcome{
		{Nodes: 10, Copies: 10, Last: 10}, {Nodes: 1000, Copies: 1000, Last: 860},
		{Name: "all at once", Bucket: "a & b", Nodes: 10, Copies: 1, Last: 10}, {Name: "all at once", Bucket: "a & b", Nodes: 1000, Copies: 1.01, Last: 11},
		{Name: "holders die", Bucket: "a & b", Nodes: 1000, Copies: 1.01, Last: 11, Killed: 3},
	}
	points := 0
	for d := xml.NewDecoder(strings.NewReader(draw(all))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
			points++
		}
	}
	if points != 1+2*4 {
		t.Errorf("%d titles", points)
	}
	if rows := strings.Count(table(all), "\n| "); rows != len(all) {
		t.Errorf("%d rows", rows)
	}
}
