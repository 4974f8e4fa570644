package decode

import "strings"

// Nearest returns the known word with the smallest edit distance, or "" if none is similar.
func Nearest(word string, known []string) string {
	best, least := "", max(2, len(word)/2)
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the edit distance: how many letters must be changed, added or removed to turn a
// into b.
func distance(a, b string) int {
	if len(a) > 64 { // no key is this long
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost++
			}
			left = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
