package load

import (
	"slices"
	"time"
)

// Silence is a time in which no client was answered.
type Silence struct {
	// From is the last answer before it, To the first after it.
	From, To time.Time
}

// Length is how long it was.
func (s Silence) Length() time.Duration { return s.To.Sub(s.From) }

// Silences are the times between two answers in a row, whoever got them, of which the
// later one came after the moment from and not after the moment to. One that begins
// before from is counted whole: its clients did wait for so long.
func Silences(requests []Request, from, to time.Time) []Silence {
	var answers []time.Time
	for _, r := range requests {
		if r.OK() {
			answers = append(answers, r.End)
		}
	}
	slices.SortFunc(answers, time.Time.Compare)
	var all []Silence
	for i := 1; i < len(answers); i++ {
		if answers[i].After(from) && !answers[i].After(to) {
			all = append(all, Silence{answers[i-1], answers[i]})
		}
	}
	return all
}

// OnlyWrites are the writes among some requests.
func OnlyWrites(requests []Request) []Request {
	return slices.DeleteFunc(slices.Clone(requests), func(r Request) bool { return r.Key == "" })
}

// Longest is the longest of some silences, and the sum of all that are longer than over.
func Longest(silences []Silence, over time.Duration) (longest Silence, sum time.Duration) {
	for _, s := range silences {
		if s.Length() > longest.Length() {
			longest = s
		}
		if s.Length() > over {
			sum += s.Length()
		}
	}
	return longest, sum
}

// Requested counts the requests that ended after a moment, and those of them that failed.
func Requested(requests []Request, from time.Time) (all, failed int) {
	for _, r := range requests {
		if !r.End.After(from) {
			continue
		}
		all++
		if !r.OK() {
			failed++
		}
	}
	return all, failed
}

// Writes is what became of what clients wrote.
type Writes struct {
	// Acked is how many keys were acknowledged. Lost are those of them that the
	// application knows nothing of, Repeated all keys that it has counted more than once.
	Acked          int
	Lost, Repeated []string
}

// Judge compares a log with what the application has counted for each key at the end.
// Every key was meant to be counted once.
func Judge(requests []Request, counts map[string]int) Writes {
	var w Writes
	acked, sent := map[string]bool{}, map[string]bool{}
	for _, r := range requests {
		if r.Key == "" {
			continue
		}
		if !sent[r.Key] && counts[r.Key] > 1 {
			w.Repeated = append(w.Repeated, r.Key)
		}
		sent[r.Key] = true
		if r.OK() && !acked[r.Key] {
			acked[r.Key] = true
			if counts[r.Key] == 0 {
				w.Lost = append(w.Lost, r.Key)
			}
		}
	}
	w.Acked = len(acked)
	return w
}
