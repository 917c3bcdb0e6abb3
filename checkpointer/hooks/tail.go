package hooks

import "strings"

// kept is how much of a hook's output is kept, in bytes.
const kept = 4 << 10

// tail is a writer that keeps the end of what is written.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if over := len(t.end) - kept; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return last(string(t.end)) }

// last is the end of a text, as something that can be written into an API object.
func last(text string) string {
	text = text[max(0, len(text)-kept):]
	return strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")) // the cut may be within a letter
}
