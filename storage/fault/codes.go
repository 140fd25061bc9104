package fault

import "net/http"

// verdict is what is known of a code.
type verdict struct {
	final  bool   // the same again would fail again
	status int    // of the answer to who waits for it
	advice string // for people; "" if the message says it all
}

const (
	final   = true
	passing = false
)

const notGit = "Look at the URL: it must be that of a Git repository over https. An archive comes with the project that depends on it: `packbase capture`."

// codes is the one table of the codes that jobs end with, and of those of
// answers that have an advice. What of gitpack is not in it is final.
var codes = map[string]verdict{
	// What is asked for.
	"invalid":          {final, http.StatusBadRequest, ""},
	"not_found":        {final, http.StatusNotFound, "`packbase list` shows what is here, `packbase fetch URL` mirrors a package."},
	"conflict":         {final, http.StatusConflict, ""},
	"name_conflict":    {final, http.StatusConflict, "Give it another name here: --name NAME."},
	"unauthorized":     {final, http.StatusUnauthorized, "Set PACKBASE_TOKEN or --token-file; `packbase up` keeps its token in the file token of its root folder."},
	"forbidden":        {final, http.StatusForbidden, "Compare PACKBASE_TOKEN with the server's, or the file token in the root folder of `packbase up`."},
	"removed":          {final, http.StatusGone, ""},
	"package_frozen":   {final, http.StatusConflict, ""},
	"cancelled":        {final, http.StatusConflict, ""},
	"manifest_invalid": {final, http.StatusUnprocessableEntity, ""},
	"hash_mismatch":    {final, http.StatusUnprocessableEntity, ""},
	"unknown_job":      {final, http.StatusBadGateway, ""},

	// What upstream has.
	"no_tags":            {final, http.StatusUnprocessableEntity, "Name a branch or a commit: put #main, say, behind the URL."},
	"no_releases":        {final, http.StatusUnprocessableEntity, "Name a branch or a commit: put #main, say, behind the URL."},
	"no_such_ref":        {final, http.StatusUnprocessableEntity, "Look at upstream for the tags and branches that it has."},
	"not_a_commit":       {final, http.StatusUnprocessableEntity, ""},
	"not_an_archive":     {final, http.StatusUnprocessableEntity, ""},
	"tag_rejected":       {final, http.StatusUnprocessableEntity, ""},
	"too_many_tags":      {final, http.StatusUnprocessableEntity, ""},
	"too_many_branches":  {final, http.StatusUnprocessableEntity, ""},
	"archive_too_large":  {final, http.StatusUnprocessableEntity, ""},
	"tree_too_large":     {final, http.StatusUnprocessableEntity, ""},
	"tree_unfit":         {final, http.StatusBadGateway, ""},
	"tarball_too_large":  {final, http.StatusBadGateway, ""},
	"manifest_too_large": {final, http.StatusBadGateway, ""},
	"upstream_empty":     {final, http.StatusBadGateway, ""},
	"incomplete":         {passing, http.StatusBadGateway, ""}, // an object is missing: of gitpack
	"fixture_unfit":      {final, http.StatusBadGateway, ""},
	"fixture_not_found":  {passing, http.StatusBadGateway, ""},

	// How upstream answers.
	"upstream_url":            {final, http.StatusBadRequest, notGit},
	"upstream_redirect":       {final, http.StatusBadGateway, notGit},
	"upstream_not_git":        {final, http.StatusBadGateway, notGit},
	"upstream_not_found":      {final, http.StatusBadGateway, notGit},
	"upstream_address":        {final, http.StatusForbidden, "The server's PACKBASE_UPSTREAM_ALLOW opens private places."},
	"upstream_auth":           {final, http.StatusBadGateway, "The server's PACKBASE_NETRC gives it credentials for private upstreams."},
	"upstream_tls":            {final, http.StatusBadGateway, "The server's SSL_CERT_FILE names the certificates that it trusts."},
	"upstream_refused":        {final, http.StatusBadGateway, ""},
	"upstream_unsupported":    {final, http.StatusBadGateway, ""},
	"upstream_no_such_commit": {final, http.StatusBadGateway, ""},
	"upstream_unreachable":    {passing, http.StatusBadGateway, ""},
	"upstream_timeout":        {passing, http.StatusBadGateway, ""},
	"upstream_rate_limited":   {passing, http.StatusBadGateway, ""},
	"upstream_unavailable":    {passing, http.StatusBadGateway, ""},
	"upstream_incomplete":     {passing, http.StatusBadGateway, ""},
	"too_many_refs":           {final, http.StatusBadGateway, ""},
	"ref_list_too_large":      {final, http.StatusBadGateway, ""},
	"pack_too_large":          {final, http.StatusBadGateway, ""},

	// The catalog.
	"catalog_url":         {final, http.StatusBadGateway, ""},
	"catalog_too_large":   {final, http.StatusBadGateway, ""},
	"catalog_unreadable":  {passing, http.StatusBadGateway, ""},
	"catalog_unreachable": {passing, http.StatusBadGateway, ""},
	"catalog_incomplete":  {passing, http.StatusBadGateway, ""},
	"catalog_malformed":   {passing, http.StatusBadGateway, ""},
	"catalog_empty":       {passing, http.StatusBadGateway, ""},
	"fixtures_unreadable": {passing, http.StatusBadGateway, ""},

	// What there is room for.
	"quota_bytes":         {final, http.StatusInsufficientStorage, ""},
	"quota_package_bytes": {final, http.StatusUnprocessableEntity, ""},
	"quota_releases":      {final, http.StatusUnprocessableEntity, ""},
	"quota_ratio":         {final, http.StatusUnprocessableEntity, ""},
	"too_large":           {final, http.StatusBadGateway, ""},
	"out_of_memory":       {final, http.StatusBadGateway, ""},

	// How we are.
	"storage_full":         {passing, http.StatusServiceUnavailable, ""},
	"storage_unavailable":  {passing, http.StatusServiceUnavailable, ""},
	"storage_lost":         {final, http.StatusInternalServerError, "Bring the blobs back from a backup or an edge: `packbase fsck` names those that are missing."},
	"database_unavailable": {passing, http.StatusBadGateway, ""},
	"superseded":           {passing, http.StatusServiceUnavailable, ""},
	"worker_lost":          {passing, http.StatusServiceUnavailable, ""},
	"timeout":              {passing, http.StatusGatewayTimeout, ""},
	"internal":             {passing, http.StatusInternalServerError, ""},
	"ingest_failed":        {passing, http.StatusInternalServerError, ""},
	"ingest_untrue":        {passing, http.StatusBadGateway, ""},
	"log_key":              {passing, http.StatusServiceUnavailable, "Bring the file of PACKBASE_LOG_KEY_FILE back from where it was; `packbase doctor` says which one is meant."},
	"log_forked":           {final, http.StatusInternalServerError, "The database or the folder log is from elsewhere, or from another time: see docs/log-keeping.md."},
	"log_behind":           {final, http.StatusInternalServerError, "Bring the folder log back as it was last, from a backup or from an edge, or take the witness out of PACKBASE_LOG_WITNESSES if it is wrong: see docs/log-keeping.md."},
	"log_damaged":          {passing, http.StatusServiceUnavailable, "Bring the folder log back from a backup: see docs/log-keeping.md."},
	"quarantined":          {final, http.StatusInternalServerError, ""},
}

// of returns what is known of a code. One that is not in the table is a verdict
// on upstream's bytes.
func of(code string) verdict {
	if v, ok := codes[code]; ok {
		return v
	}
	return verdict{final: final, status: http.StatusBadGateway}
}

// Status returns the HTTP status of the answer to whoever waits for a job that
// ended with the code.
func Status(code string) int { return of(code).status }

// Advice returns what people can do about a code, "" if that is not known.
func Advice(code string) string { return of(code).advice }
