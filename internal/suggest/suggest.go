// Package suggest finds the word that a mistyped one was probably meant to be.
package suggest

import "strings"

// Question asks whether the nearest word was meant, with ": " before it. It is empty if
// no word is near.
func Question(s string, words []string) string {
	if best := Nearest(s, words); best != "" {
		return `: did you mean "` + best + `"?`
	}
	return ""
}

// Nearest is the word that s was probably meant to be; empty if none is near.
func Nearest(s string, words []string) string {
	best, at := "", 2+len(s)/5 // further away is no longer a slip of the finger
	for _, word := range words {
		if d := distance(plain(s), plain(word)); d < at {
			best, at = word, d
		}
	}
	return best
}

// plain makes allow-remote and allowRemote alike.
func plain(s string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
}

// distance is how many letters must be put in, taken out, changed or swapped
// with their neighbour to make b from a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
