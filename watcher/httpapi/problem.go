package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The library keeps what an error looks like, and whether a list may be null, for the
// whole process. Nothing else in it uses the library.
func init() {
	huma.DefaultArrayNullable = false
	huma.NewError = newError
}

// Problem is an error as RFC 9457 has it: what went wrong, where, and what to do.
type Problem struct {
	Title    string              `json:"title" doc:"The HTTP status in words" example:"Conflict"`
	Status   int                 `json:"status" doc:"The HTTP status" example:"409"`
	Reason   string              `json:"reason" doc:"One word for programs; it does not change within /api/v1" example:"TooLateToCancel"`
	Detail   string              `json:"detail" doc:"What is wrong, and with which object"`
	Hint     string              `json:"hint,omitempty" doc:"What to do about it"`
	Instance string              `json:"instance,omitempty" doc:"The path that was asked for"`
	Errors   []*huma.ErrorDetail `json:"errors,omitempty" doc:"Each value of the request that is not allowed, and where it stands"`

	retryAfter time.Duration
}

// Reasons of problems.
const (
	reasonUnauthenticated  = "Unauthenticated"
	reasonForbidden        = "Forbidden"
	reasonNotFound         = "NotFound"
	reasonMethodNotAllowed = "MethodNotAllowed"
	reasonInvalid          = "Invalid"
	reasonBusy             = "Busy"
	reasonUnavailable      = "Unavailable"
	reasonConflict         = "Conflict"
	reasonInternal         = "Internal"

	reasonNotProtected    = "NotProtected"
	reasonNotRunning      = "NotRunning"
	reasonNoCheckpoint    = "NoCheckpoint"
	reasonAlreadyMoving   = "AlreadyMoving"
	reasonPodReplaced     = "PodReplaced"
	reasonKeyReused       = "IdempotencyKeyReused"
	reasonTooLateToCancel = "TooLateToCancel"
	reasonClosed          = "Closed"
	reasonNotPlanned      = "NotPlanned"
	reasonNotCloned       = "NotCloned"
	reasonNameTaken       = "NameTaken"
)

func problem(status int, reason, hint, format string, values ...any) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Reason: reason, Hint: hint, Detail: fmt.Sprintf(format, values...)}
}

func (p *Problem) after(wait time.Duration) *Problem {
	p.retryAfter = wait
	return p
}

// Error is what went wrong.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is the media type of problems.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders are those that go with the problem.
func (p *Problem) GetHeaders() http.Header {
	headers := http.Header{}
	if p.retryAfter > 0 {
		headers.Set("Retry-After", strconv.Itoa(int(max(1, p.retryAfter/time.Second))))
	}
	if p.Status == http.StatusUnauthorized {
		headers.Set("WWW-Authenticate", `Bearer realm="lifeboat"`)
	}
	return headers
}

// newError is an error that the library found: a request that does not have the form
// that the specification asks for.
func newError(status int, message string, errs ...error) huma.StatusError {
	reason, hint := reasonInvalid, "see /openapi.json for what the operation takes"
	if status >= http.StatusInternalServerError {
		reason, hint = reasonInternal, "try again; when it stays so, the watcher's log says more"
	}
	p := problem(status, reason, hint, "%s", message)
	for _, err := range errs {
		if detailed, ok := err.(huma.ErrorDetailer); ok {
			p.Errors = append(p.Errors, detailed.ErrorDetail())
		} else if err != nil && status < http.StatusInternalServerError {
			p.Errors = append(p.Errors, &huma.ErrorDetail{Message: err.Error()})
		}
	}
	return p
}

// unavailable is how the API server's refusal, or its silence, is passed on.
func unavailable(doing string, err error) *Problem {
	switch {
	case apierrors.IsConflict(err):
		return problem(http.StatusConflict, reasonConflict, "try again", "%s: it was changed by somebody else meanwhile", doing)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return problem(http.StatusUnprocessableEntity, reasonInvalid, "change the request as the message says", "%s: %v", doing, err)
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err):
		return problem(http.StatusServiceUnavailable, reasonUnavailable, "try again in a moment", "%s: the cluster's API server did not answer in time", doing).after(2 * time.Second)
	case apierrors.ReasonForError(err) != "":
		return problem(http.StatusInternalServerError, reasonInternal, "check that the watcher's ClusterRole is the one that this version ships", "%s: %v", doing, err)
	}
	return problem(http.StatusServiceUnavailable, reasonUnavailable, "try again in a moment", "%s: the cluster's API server cannot be reached", doing).after(2 * time.Second)
}
