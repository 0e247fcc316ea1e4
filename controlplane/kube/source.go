package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

// Times of following changes.
const (
	// settle is how long there must be quiet before later changes are emitted, and
	// settleMost bounds that wait while changes keep coming.
	settle     = 40 * time.Millisecond
	settleMost = 300 * time.Millisecond
	// lookAgain is how often kinds that are not installed, or that could not be
	// asked for, are looked for.
	lookAgain = 2 * time.Second
	// patience is how long the API server is waited for at a start before what was
	// kept on disk serves.
	patience = 5 * time.Second
	// requestTimeout bounds a request that is no watch.
	requestTimeout = 30 * time.Second
	// sayTroubleEvery is how often the same trouble is logged.
	sayTroubleEvery = time.Minute
)

// Source follows the objects of an API server. Use New.
type Source struct {
	config  Config
	logger  *slog.Logger
	rest    *rest.Config
	client  *http.Client
	objects *objects
	keeper  *source.Keeper
	// definitions are the cluster's CustomResourceDefinitions.
	definitions metadata.ResourceInterface
	// kinds are what is watched, in one of the versions each; the first that the
	// cluster has.
	kinds map[schema.GroupKind][]string
	// changed has room for one: something is new.
	changed chan struct{}
	// touched is told of every object that changed, also in its status alone.
	touched func(policy.ObjectRef)

	mu      sync.Mutex
	watched map[schema.GroupKind]toolscache.ResourceEventHandlerRegistration
	absent  map[schema.GroupKind]bool
	// trouble is what went wrong last, by what was asked for.
	trouble map[string]trouble
}

// whatKinds is what is asked for first: which kinds there are.
const whatKinds = "installed kinds"

// trouble is why a request or watch did not work, and when that was logged.
type trouble struct {
	err  error
	said time.Time
}

// Options of New beside its configuration.
type Options struct {
	// KeepFile holds the last good objects; empty keeps none.
	KeepFile string
	Logger   *slog.Logger
}

var _ source.Source = (*Source)(nil)

// New makes a source and reads what was kept. It does not talk to the API
// server.
func New(config Config, options Options, parser *policy.Parser) (*Source, error) {
	restConfig, err := config.restConfig()
	if err != nil {
		return nil, err
	}
	httpClient, err := rest.HTTPClientFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	definitions, err := metadata.NewForConfigAndClient(restConfig, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	keeper := source.NewKeeper(options.KeepFile, options.Logger)
	kept, err := keeper.Load(parser)
	if err != nil {
		return nil, err
	}
	return &Source{
		config: config, logger: options.Logger, rest: restConfig, client: httpClient, keeper: keeper,
		definitions: definitions.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}),
		objects:     newObjects(parser, kept), kinds: versions(parser.Kinds()), changed: make(chan struct{}, 1), touched: func(policy.ObjectRef) {},
		watched: map[schema.GroupKind]toolscache.ResourceEventHandlerRegistration{},
		absent:  map[schema.GroupKind]bool{}, trouble: map[string]trouble{},
	}, nil
}

// versions groups kinds; the most stable version of each comes first.
func versions(kinds []schema.GroupVersionKind) map[schema.GroupKind][]string {
	grouped := map[schema.GroupKind][]string{}
	for _, gvk := range kinds {
		grouped[gvk.GroupKind()] = append(grouped[gvk.GroupKind()], gvk.Version)
	}
	for _, versions := range grouped {
		slices.SortFunc(versions, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
	}
	return grouped
}

// Name is "kubernetes".
func (s *Source) Name() string { return Name }

// Run follows the API server. Kinds that are not installed are looked for again
// and again. Before every kind that is installed has been read, nothing is
// emitted but what was kept on disk, after a while: half a policy could leave
// open what the other half protects.
func (s *Source) Run(ctx context.Context, emit func(source.Update)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer s.keeper.Start()()
	informers, mapper, err := s.newCache()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	running.Go(func() { ended <- informers.Start(ctx) })
	if err := s.first(ctx, informers, mapper, emit); err != nil {
		return err
	}
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			if err == nil {
				err = errors.New("the watches ended")
			}
			return err
		case <-ticker.C:
			s.watchKinds(ctx, informers, mapper)
		case <-s.changed:
			s.offer(emit)
			s.quiet(ctx)
		}
	}
}

func (s *Source) newCache() (cache.Cache, meta.RESTMapper, error) {
	mapper, err := apiutil.NewDynamicRESTMapper(s.rest, s.client)
	if err != nil {
		return nil, nil, fmt.Errorf("kubernetes client: %w", err)
	}
	shared := true
	// The cache asks for the scope of what has a selector when it is made; that must
	// not need the API server.
	known := meta.NewDefaultRESTMapper(nil)
	for kind := range selectors() {
		known.Add(schema.GroupVersionKind{Version: "v1", Kind: kind}, meta.RESTScopeNamespace)
	}
	options := cache.Options{
		HTTPClient: s.client, Mapper: meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{known, mapper}}, DefaultUnsafeDisableDeepCopy: &shared, DefaultTransform: slim,
		DefaultWatchErrorHandler: s.watchError, ByObject: map[client.Object]cache.ByObject{},
	}
	for kind, selector := range selectors() {
		options.ByObject[empty(schema.GroupVersionKind{Version: "v1", Kind: kind})] = cache.ByObject{Field: selector}
	}
	if len(s.config.Namespaces) > 0 {
		options.DefaultNamespaces = map[string]cache.Config{}
		for _, namespace := range s.config.Namespaces {
			options.DefaultNamespaces[namespace] = cache.Config{}
		}
	}
	informers, err := cache.New(s.rest, options)
	return informers, mapper, err
}

// selectors leave out what no policy refers to: certificates are in Secrets of
// their own type, and every namespace has a ConfigMap of the cluster's authority.
func selectors() map[string]fields.Selector {
	return map[string]fields.Selector{
		"Secret":    fields.OneTermEqualSelector("type", "kubernetes.io/tls"),
		"ConfigMap": fields.OneTermNotEqualSelector("metadata.name", "kube-root-ca.crt"),
	}
}

// slim drops what is large and never read.
func slim(object any) (any, error) {
	if value, ok := object.(*unstructured.Unstructured); ok {
		value.SetManagedFields(nil)
	}
	return object, nil
}

func empty(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	value := &unstructured.Unstructured{}
	value.SetGroupVersionKind(gvk)
	return value
}

// watchError takes note of why a watch does not work; it is tried again, more
// and more slowly.
func (s *Source) watchError(ctx context.Context, reflector *toolscache.Reflector, err error) {
	if ctx.Err() != nil || errors.Is(err, io.EOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // How watches end at times; the next one begins at once.
	}
	s.troubled(ctx, reflector.TypeDescription(), err)
}

func (s *Source) troubled(ctx context.Context, what string, err error) {
	s.mu.Lock()
	before, now := s.trouble[what], time.Now()
	changed := before.err == nil || what != whatKinds && before.err.Error() != err.Error()
	say := changed || now.Sub(before.said) >= sayTroubleEvery
	if say {
		before.said = now
	}
	s.trouble[what] = trouble{err: err, said: before.said}
	s.mu.Unlock()
	if say {
		s.logger.WarnContext(ctx, "the Kubernetes API does not answer as it should", "watch", what, "error", err)
	}
}

// first emits for the first time.
func (s *Source) first(ctx context.Context, informers cache.Cache, mapper meta.RESTMapper, emit func(source.Update)) error {
	started, saidKept := time.Now(), false
	ticker := time.NewTicker(settle)
	defer ticker.Stop()
	var looked time.Time
	for {
		if now := time.Now(); now.Sub(looked) >= lookAgain || s.unknown() > 0 && now.Sub(looked) >= lookAgain/4 {
			looked = now
			s.watchKinds(ctx, informers, mapper)
		}
		if s.unknown() == 0 && s.synced() {
			s.offer(emit)
			return nil
		}
		if !saidKept && time.Since(started) >= patience {
			saidKept = true
			update, any := s.objects.keptUpdate(s.why())
			s.logger.ErrorContext(ctx, "the Kubernetes API cannot be read yet", "error", s.why(), "kept objects", len(update.Input.Objects))
			if any {
				emit(update)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// watchKinds starts to watch the kinds that are installed and not watched yet.
func (s *Source) watchKinds(ctx context.Context, informers cache.Cache, mapper meta.RESTMapper) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for kind, versions := range s.kinds {
		s.mu.Lock()
		_, watched := s.watched[kind]
		s.mu.Unlock()
		if watched {
			continue
		}
		installed, err := s.installed(ctx, kind)
		if err == nil && !installed {
			s.note(ctx, kind)
			continue
		}
		var mapping *meta.RESTMapping
		if err == nil {
			mapping, err = mapper.RESTMapping(kind, versions...)
		}
		if err == nil {
			err = s.watch(ctx, mapping.GroupVersionKind, informers)
		}
		if err != nil {
			s.troubled(ctx, whatKinds, fmt.Errorf("%s: %w", kind, err))
			return // The others would fail as well, each after a while.
		}
	}
}

// installed reports whether the cluster has a kind, in any version. Discovery
// does not know for some seconds after the API server's start; the definitions
// do.
func (s *Source) installed(ctx context.Context, kind schema.GroupKind) (bool, error) {
	if kind.Group == "" || kind.Group == "discovery.k8s.io" {
		return true, nil // Kubernetes' own.
	}
	_, err := s.definitions.Get(ctx, plural(kind.Kind)+"."+kind.Group, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// plural is a kind's name in its definition's name, by the rules of English that
// the kinds of package policy follow.
func plural(kind string) string {
	name := strings.ToLower(kind)
	stem, ends := strings.CutSuffix(name, "y")
	switch {
	case strings.HasSuffix(name, "s"):
		return name + "es"
	case ends && !strings.ContainsAny(stem[len(stem)-1:], "aeiou"):
		return stem + "ies"
	default:
		return name + "s"
	}
}

// note remembers that a kind is not installed.
func (s *Source) note(ctx context.Context, kind schema.GroupKind) {
	s.mu.Lock()
	known := s.absent[kind]
	s.absent[kind] = true
	s.mu.Unlock()
	if !known {
		s.logger.WarnContext(ctx, "the cluster does not have this kind; it is read once its CustomResourceDefinition is installed",
			"kind", kind.String(), "versions", s.kinds[kind])
	}
}

func (s *Source) watch(ctx context.Context, gvk schema.GroupVersionKind, informers cache.Cache) error {
	informer, err := informers.GetInformer(ctx, empty(gvk), cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    s.put,
		UpdateFunc: func(_, object any) { s.put(object) },
		DeleteFunc: s.remove,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := gvk.GroupKind()
	if s.absent[kind] {
		s.logger.InfoContext(ctx, "the cluster has this kind now", "kind", kind.String())
	}
	s.watched[kind] = registration
	delete(s.absent, kind)
	delete(s.trouble, whatKinds)
	return nil
}

func (s *Source) put(object any) {
	value, ok := object.(*unstructured.Unstructured)
	if !ok {
		return
	}
	if s.objects.put(value) {
		s.signal()
	}
	s.touched(refOf(value))
}

func (s *Source) remove(object any) {
	if unseen, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
		object = unseen.Obj
	}
	if value, ok := object.(*unstructured.Unstructured); ok && s.objects.remove(refOf(value)) {
		s.signal()
	}
}

func (s *Source) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// unknown counts the kinds of which it is not known whether they are installed.
func (s *Source) unknown() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kinds) - len(s.watched) - len(s.absent)
}

// synced reports whether every object of the kinds watched has been taken in.
func (s *Source) synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, registration := range s.watched {
		if !registration.HasSynced() {
			return false
		}
	}
	return true
}

// why is what the first update waits for.
func (s *Source) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.trouble) == 0 {
		return "it has not answered in time"
	}
	texts := make([]string, 0, len(s.trouble))
	for _, what := range slices.Sorted(maps.Keys(s.trouble)) {
		texts = append(texts, what+": "+s.trouble[what].err.Error())
	}
	return strings.Join(texts, "; ")
}

func (s *Source) offer(emit func(source.Update)) {
	emit(s.objects.update())
	s.keeper.Keep(s.objects.goodOnes())
}

// quiet returns when the next change may be emitted: after quiet at once, and
// joined with others while they keep coming.
func (s *Source) quiet(ctx context.Context) {
	deadline := time.After(settleMost)
	joined := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
		case <-s.changed:
			joined = true
			continue
		case <-time.After(settle):
		}
		if joined {
			s.signal()
		}
		return
	}
}
