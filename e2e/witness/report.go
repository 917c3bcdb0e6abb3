package witness

import (
	"fmt"
	"slices"
	"time"
)

// aroundEach is how many steps of each copy are told before and after a moment.
const aroundEach = 4

// Around tells which steps were made around a moment, in order of time: of each copy the
// last ones before it and the first ones after it. A step that reached the witness says so.
func (h *History) Around(moment time.Time) []string {
	addresses := map[Hash]string{}
	for _, seen := range h.Seen {
		addresses[seen.Step.Hash] = seen.From
	}
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	for _, c := range h.merge() {
		n, _ := slices.BinarySearchFunc(c.Steps, moment, func(s Step, t time.Time) int { return s.At.Compare(t) })
		for _, s := range c.Steps[max(0, n-aroundEach):min(len(c.Steps), n+aroundEach)] {
			text := fmt.Sprintf("%+10.3f s  step %6d %s after %s  %s", s.At.Sub(moment).Seconds(), s.Number, s.Hash[:6], s.Previous[:min(6, len(s.Previous))], c.Name)
			if from, heard := addresses[s.Hash]; heard {
				text += ", seen from " + from
			}
			lines = append(lines, line{s.At, text})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.text
	}
	return texts
}
