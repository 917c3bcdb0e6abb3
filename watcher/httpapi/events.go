package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// longestStream is when a stream ends by itself. The caller goes on where it was, and
	// is asked again who it is.
	longestStream = 30 * time.Minute
	// signOfLife is how often a silent stream says that it is still there.
	signOfLife = 15 * time.Second
	// writeWithin is how long a caller may take to read an event.
	writeWithin = 10 * time.Second
	mostStreams = 64
)

// MigrationEvent is the data of the event "migration".
type MigrationEvent struct {
	Type      string    `json:"type" enum:"ADDED,MODIFIED,DELETED"`
	Migration Migration `json:"migration"`
}

// Resume is where a stream goes on.
type Resume struct {
	LastEventID string `header:"Last-Event-ID" maxLength:"20" pattern:"^[0-9]+$" doc:"The id of the last event that was received: the stream goes on after it"`
}

type eventsInput struct {
	Namespace string `query:"namespace" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Events of this namespace alone; without it, of the whole cluster"`
	Resume
}

type migrationEventsInput struct {
	InNamespace
	Named
	Resume
}

func (s *service) events(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	return s.stream(ctx, &stream{service: s, namespace: in.Namespace, after: in.LastEventID})
}

func (s *service) migrationEvents(ctx context.Context, in *migrationEventsInput) (*huma.StreamResponse, error) {
	m, err := s.migration(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	if !m.Open() && seen(m.ResourceVersion, in.LastEventID) {
		// An EventSource that connects again is told to stop by this status.
		return &huma.StreamResponse{Body: func(ctx huma.Context) { ctx.SetStatus(http.StatusNoContent) }}, nil
	}
	return s.stream(ctx, &stream{service: s, namespace: in.Namespace, name: in.Name, after: in.LastEventID})
}

// seen says whether a version is not newer than the last one.
func seen(version, last string) bool {
	v, err := strconv.ParseUint(version, 10, 64)
	l, lastErr := strconv.ParseUint(last, 10, 64)
	return err == nil && lastErr == nil && v <= l
}

// stream is one caller's stream of events.
type stream struct {
	*service
	// namespace and name are what it is about, empty for all.
	namespace, name string
	// after is the resource version of the last event that the caller has, empty if none.
	after string

	w       http.ResponseWriter
	control *http.ResponseController
}

func (s *service) stream(ctx context.Context, of *stream) (*huma.StreamResponse, error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, problem(http.StatusServiceUnavailable, reasonBusy, "try again later, or read the Migrations from time to time", "%d streams are open already", mostStreams).after(10 * time.Second)
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer func() { <-s.streams }()
		ctx, cancel := context.WithTimeout(ctx, longestStream)
		defer cancel()
		stop := context.AfterFunc(s.ending, cancel)
		defer stop()
		_, of.w = humago.Unwrap(hctx)
		of.control = http.NewResponseController(of.w)
		// The server's own limits are those of requests that are answered at once.
		_ = of.control.SetReadDeadline(time.Time{})
		hctx.SetHeader("Content-Type", "text/event-stream")
		hctx.SetStatus(http.StatusOK)
		if err := of.run(ctx); err != nil && ctx.Err() == nil {
			s.Log.Info("a stream of events ended early", "user", callerOf(ctx).Username, "error", err)
		}
	}}, nil
}

// run sends events until the caller or the API server ends it, or the Migration that it
// is about is closed.
func (s *stream) run(ctx context.Context) error {
	if err := s.write("retry: 1000\n\n"); err != nil {
		return err
	}
	changes, err := s.begin(ctx)
	if err != nil || changes == nil {
		return err
	}
	defer func() { changes.Stop() }()
	alive := time.NewTicker(signOfLife)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			if err := s.write(": alive\n\n"); err != nil {
				return err
			}
		case change, ok := <-changes.ResultChan():
			if !ok {
				return nil // the caller goes on after the last event
			}
			if change.Type == watch.Error {
				changes.Stop()
				err := apierrors.FromObject(change.Object)
				if !forgotten(err) {
					return fmt.Errorf("watch the Migrations: %w", err)
				}
				s.after = ""
				next, err := s.begin(ctx)
				if err != nil || next == nil {
					return err
				}
				changes = next
				continue
			}
			if ended, err := s.send(change); ended || err != nil {
				return err
			}
		}
	}
}

// begin sends what there is, unless the caller goes on after an event, and watches
// from there. It returns nil when there is nothing left to watch.
func (s *stream) begin(ctx context.Context) (watch.Interface, error) {
	options := []client.ListOption{client.InNamespace(s.namespace)}
	if s.name != "" {
		options = append(options, client.MatchingFields{"metadata.name": s.name})
	}
	if s.after != "" {
		// A version that the cluster has not come to, of a cluster that was set up anew,
		// would be waited for.
		var newest v1alpha1.MigrationList
		if err := s.Client.List(ctx, &newest, append(slices.Clone(options), client.Limit(1))...); err != nil {
			return nil, err
		}
		if !seen(s.after, newest.ResourceVersion) {
			s.after = ""
		}
	}
	if s.after == "" {
		var all v1alpha1.MigrationList
		if err := s.Client.List(ctx, &all, options...); err != nil {
			return nil, err
		}
		if err := s.write("event: reset\ndata: {}\n\n"); err != nil {
			return nil, err
		}
		for i := range all.Items {
			// Without an id: the list is in no order in which one could go on.
			if err := s.event("migration", "", MigrationEvent{Type: string(watch.Added), Migration: viewMigration(&all.Items[i])}); err != nil {
				return nil, err
			}
		}
		s.after = all.ResourceVersion
		if err := s.event("synced", s.after, struct{}{}); err != nil {
			return nil, err
		}
		if s.name != "" && (len(all.Items) == 0 || !all.Items[0].Open()) {
			return nil, s.event("end", "", struct{}{})
		}
	}
	options = append(options, &client.ListOptions{Raw: &metav1.ListOptions{
		ResourceVersion: s.after, AllowWatchBookmarks: true, TimeoutSeconds: ptr.To(int64(longestStream / time.Second)),
	}})
	changes, err := s.Client.Watch(ctx, &v1alpha1.MigrationList{}, options...)
	if forgotten(err) && ctx.Err() == nil {
		s.after = ""
		return s.begin(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("watch the Migrations: %w", err)
	}
	return changes, nil
}

// forgotten says whether the API server does not know any more what came after a
// resource version.
func forgotten(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}

// send passes a change on. It returns true after the last one.
func (s *stream) send(change watch.Event) (ended bool, err error) {
	m, ok := change.Object.(*v1alpha1.Migration)
	if !ok {
		return true, fmt.Errorf("watch the Migrations: got a %T", change.Object)
	}
	s.after = m.ResourceVersion
	if change.Type == watch.Bookmark {
		return false, s.event("synced", s.after, struct{}{})
	}
	if err := s.event("migration", s.after, MigrationEvent{Type: string(change.Type), Migration: viewMigration(m)}); err != nil {
		return true, err
	}
	if s.name != "" && (change.Type == watch.Deleted || !m.Open()) {
		return true, s.event("end", "", struct{}{})
	}
	return false, nil
}

func (s *stream) event(name, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return s.write(id + "event: " + name + "\ndata: " + string(text) + "\n\n")
}

func (s *stream) write(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *service) registerEvents(api huma.API) {
	const how = `Server-sent events. "migration" has a MigrationEvent; its id is the Migration's resource version. The stream begins with "reset": ` +
		`what the caller knew counts no more; then each Migration that there is comes as ADDED, and "synced" after the last of them. ` +
		`Whoever connects again with Last-Event-ID goes on after that event, without "reset"; where the cluster has forgotten what came since, "reset" follows all the same. ` +
		`"synced" also comes from time to time, for its id. A stream ends after 30 minutes at the latest.`
	schemaOf[MigrationEvent](api)
	content := map[string]*huma.Response{"200": {Description: "A stream of events, each with the data of a MigrationEvent or {}",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}}
	one := map[string]*huma.Response{"204": {Description: "The Migration is closed, and the caller has its last event: nothing will follow"}, "200": content["200"]}
	all := lifeboat("watch", "migrations")
	all.byQuery, all.anyName = true, true
	register(api, operation{id: "watch-migrations", method: http.MethodGet, path: "/events", tag: "Migrations", summary: "Watch Migrations",
		description: how, need: all, within: -1, responses: content}, s.events)
	register(api, operation{id: "watch-migration", method: http.MethodGet, path: "/namespaces/{namespace}/migrations/{name}/events", tag: "Migrations",
		summary: "Watch a Migration", description: how + ` It ends with "end" when the Migration is closed or gone.`,
		need: lifeboat("watch", "migrations"), errors: []int{http.StatusNotFound}, within: -1, responses: one}, s.migrationEvents)
}
