package preflight

import (
	"fmt"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// maxText is how many bytes a finding's texts may have in the API.
const maxText = 512

// Status is the report as a Checkpoint shows it: its Checkpointable condition,
// and at most MaxFindings findings. The condition says how many there were.
func (r Report) Status() (metav1.Condition, []v1alpha1.Finding) {
	var findings []v1alpha1.Finding
	for _, f := range r.Findings[:min(len(r.Findings), v1alpha1.MaxFindings)] {
		findings = append(findings, v1alpha1.Finding{
			Container: f.Container, Severity: f.Severity, Reason: string(f.Reason),
			Message: shorten(f.Message()), Hint: shorten(f.Hint),
		})
	}
	return r.condition(), findings
}

func (r Report) condition() metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionCheckpointable}
	var refusing []Finding
	for _, f := range r.Findings {
		if f.Severity == Refuses {
			refusing = append(refusing, f)
		}
	}
	switch {
	case len(refusing) == 1:
		c.Status, c.Reason = metav1.ConditionFalse, string(refusing[0].Reason)
	case len(refusing) > 1:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonFindingsRefuse
	case len(r.Unseen) > 0:
		c.Status, c.Reason = metav1.ConditionUnknown, v1alpha1.ReasonPartlyInspected
	case len(r.Findings) > 0:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonFindingsWarn
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonNothingFound
	}
	var texts []string
	for i, f := range refusing {
		if i == 3 {
			texts = append(texts, fmt.Sprintf("and %d more", len(refusing)-i))
			break
		}
		texts = append(texts, f.where()+shorten(f.Message())+": "+f.Hint)
	}
	if len(refusing) == 0 && len(r.Findings) > 0 {
		texts = append(texts, fmt.Sprintf("%s that a checkpoint or a restore changes", count(len(r.Findings), "thing was found", "things were found")))
	}
	if len(r.Unseen) > 0 {
		texts = append(texts, "could not look at "+shorten(r.Unseen[0]))
	}
	if len(texts) == 0 {
		texts = append(texts, "nothing was found that prevents a checkpoint")
	}
	if len(r.Findings) > v1alpha1.MaxFindings {
		texts = append(texts, fmt.Sprintf("%d of %d findings are listed", v1alpha1.MaxFindings, len(r.Findings)))
	}
	c.Message = strings.Join(texts, "; ")
	return c
}

// where names the finding's container, as the beginning of a sentence.
func (f Finding) where() string {
	if f.Container == "" {
		return ""
	}
	return "container " + f.Container + ": "
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// shorten cuts a text that the API would refuse, between two characters. What is
// no UTF-8, as the name of a file may be, is replaced.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxText {
		return text
	}
	const mark = "…"
	end := maxText - len(mark)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}
