"""Looks at files before anybody trains on them: drafts a schema, and says what each hospital's records are like."""
