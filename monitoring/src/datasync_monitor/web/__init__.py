"""The dashboard in the browser, built on Streamlit."""
