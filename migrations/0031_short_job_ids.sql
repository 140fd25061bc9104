-- People copy the last eight digits of a job's id, which are as good as the whole of it.
CREATE INDEX jobs_short ON jobs (right(id::text, 8));
