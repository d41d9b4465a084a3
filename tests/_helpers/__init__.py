"""What tests of several packages share: builders of stores, worlds of questions, odd extractors, run helpers."""
